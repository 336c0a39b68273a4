"""Patches TRL when a process imports it.

TRL has no plugins, so its patched parser reads `plugins:` and `otr:`, and its patched SFTTrainer attaches OTR.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from otr_plugin.hosts.patching import adapter, or_else, replace
from otr_plugin.hosts.recipes import asks_for_otr
from otr_plugin.hosts.trl.recipe import recipe_text


def _refuse_recipes(module: ModuleType, error: Exception) -> None:
    """Check the recipe in the constructor: a parser whose methods have changed is still constructed first."""
    parser = getattr(module, "TrlParser", None)
    if parser is None:
        return
    original = parser.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if asks_for_otr(recipe_text(sys.argv).value):
            raise RuntimeError(f"otr: TRL cannot train with OTR: {error!r}") from error

    replace(parser, "__init__", init, "an error for recipes with OTR, as the parser could not be patched")


@or_else(_refuse_recipes)
def patch_parser(module: ModuleType) -> None:
    """Reads `plugins:` and `otr:`. TRL itself passes unknown keys to `accelerate launch`, or drops them."""
    adapter("trl").patch_parser(module)


def patch_trainer(module: ModuleType) -> None:
    """Makes an SFTTrainer with OTR's settings or with an attached model train with OTR, not with its fused head."""
    adapter("trl").patch_trainer(module)


PATCHES = {"trl.scripts.utils": patch_parser, "trl.trainer.sft_trainer": patch_trainer}
