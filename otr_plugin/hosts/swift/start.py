"""Patches ms-swift when a process imports it: adds `loss_type: otr`, and refuses settings of OTR without it.

Swift takes OTR's settings from variables: `OTR_SAMPLES: 16` under `ENV:` of a recipe, or in the shell.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

from otr_plugin.hosts.patching import adapter, or_else, replace

LOSS_TYPE = "otr"
VARIABLE = "OTR_"  # before the name of a setting, in capitals
NOT_A_SETTING = ("OTR_PLUGIN_AUTOLOAD", "OTR_PLUGIN_TRACE")
IN_MEGATRON = "otr: Megatron's trainer computes its own loss, and the run would not train with OTR: run `swift sft`."


def asks_for_otr(args: Any) -> bool:
    loss_type = getattr(args, "loss_type", None) or []
    return LOSS_TYPE in ([loss_type] if isinstance(loss_type, str) else loss_type)


def variables() -> dict[str, str]:
    """Every variable of the environment that may be meant as a setting of OTR."""
    return {k: v for k, v in os.environ.items() if k.upper().split("_")[0] == "OTR" and k not in NOT_A_SETTING}


def _refuse_recipes(module: ModuleType, error: Exception) -> None:
    """Without this, swift would end a recipe with `loss_type: otr` in a KeyError, after loading the model."""
    factory: Any = getattr(module, "TrainerFactory", None)
    original = getattr(factory, "get_training_args", None)
    if original is None:
        return

    @functools.wraps(original)
    def get_training_args(args: Any) -> Any:
        if asks_for_otr(args):
            raise RuntimeError(f"otr: ms-swift cannot train with OTR: {error!r}") from error
        return original(args)

    why = "an error for recipes with OTR, as the loss could not be added"
    replace(factory, "get_training_args", staticmethod(get_training_args), why)


@or_else(_refuse_recipes)
def patch_trainer_factory(module: ModuleType) -> None:
    """Adds `loss_type: otr` to swift's losses, and checks recipes before any weight is loaded."""
    adapter("swift").patch_trainer_factory(module)


def patch_megatron(module: ModuleType) -> None:
    """Refuses OTR in `megatron sft`, which accepts any loss_type but uses none for a causal language model."""
    arguments: Any = getattr(module, "MegatronSftArguments", None)
    original = getattr(arguments, "__post_init__", None)
    if original is None:
        return

    @functools.wraps(original)
    def post_init(self: Any) -> None:
        if asks_for_otr(self) or variables():
            raise ValueError(IN_MEGATRON)
        original(self)

    replace(arguments, "__post_init__", post_init, "an error for recipes with OTR, which Megatron would ignore")


PATCHES = {
    "swift.trainers.trainer_factory": patch_trainer_factory,
    "swift.megatron.arguments.sft_args": patch_megatron,
}
