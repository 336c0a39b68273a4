"""Patches transformers' Trainer while a model is attached."""

from __future__ import annotations

from types import ModuleType

from otr_plugin.hosts.patching import adapter


def patch_trainer(module: ModuleType) -> None:
    """Connects a Trainer to its attached model while it trains or evaluates: its steps, its log and its checks."""
    adapter("transformers").patch_trainer(module)


PATCHES = {"transformers.trainer": patch_trainer}
