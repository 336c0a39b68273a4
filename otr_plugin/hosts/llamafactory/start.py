"""Patches LLaMA-Factory when a process imports it.

LLaMA-Factory has no plugins, so its patched parser reads `plugins:` and `otr:`, and its patched trainers attach OTR.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from otr_plugin.hosts.patching import adapter, or_else, replace
from otr_plugin.hosts.recipes import asks_for_otr


def _refuse_recipes(module: ModuleType, error: Exception) -> None:
    original = getattr(module, "read_args", None)
    if original is None:  # a trainer's module: _require_patched_trainer in adapter.py refuses the recipe
        return

    @functools.wraps(original)
    def read_args(args: Any = None) -> Any:
        recipe = original(args)
        if asks_for_otr(recipe):
            raise RuntimeError(f"otr: LLaMA-Factory cannot train with OTR: {error!r}") from error
        return recipe

    replace(module, "read_args", read_args, "an error for recipes with OTR, as the parser could not be patched")


@or_else(_refuse_recipes)
def patch_parser(module: ModuleType) -> None:
    """Reads `plugins:` and `otr:`. The parser itself raises for them, as for all unknown keys."""
    adapter("llamafactory").patch_parser(module)


@or_else(_refuse_recipes)
def patch_trainer(module: ModuleType) -> None:
    """Makes a trainer whose arguments carry OTR's settings attach OTR to its model."""
    adapter("llamafactory").patch_trainer(module)


@or_else(_refuse_recipes)
def patch_liger(module: ModuleType) -> None:
    """Leaves Liger's fused loss out of runs with OTR. Its other kernels stay."""
    adapter("llamafactory").patch_liger(module)


PATCHES = {
    "llamafactory.hparams.parser": patch_parser,
    "llamafactory.train.sft.trainer": patch_trainer,
    "llamafactory.train.pt.trainer": patch_trainer,
    "llamafactory.model.model_utils.liger_kernel": patch_liger,
}
