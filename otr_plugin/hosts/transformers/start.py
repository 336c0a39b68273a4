"""transformers' own Trainer, while a model is attached: a Trainer of an attached model connects to it."""

from __future__ import annotations

from types import ModuleType

from otr_plugin.hosts.patching import adapter


def patch_trainer(module: ModuleType) -> None:
    """A Trainer that is constructed with an attached model connects its steps and its log to that model."""
    adapter("transformers").patch_trainer(module)


PATCHES = {"transformers.trainer": patch_trainer}
