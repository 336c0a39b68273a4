"""Patches ms-swift when a process imports it: adds `loss_type: otr`, and refuses settings of OTR without it.

Swift takes OTR's settings from variables: `OTR_SAMPLES: 16` under `ENV:` of a recipe, or in the shell.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

from otr_plugin.hosts.mentions import reads_as_setting
from otr_plugin.hosts.patching import adapter, or_else, replace
from otr_plugin.hosts.recipe_text import SUFFIXES, RecipeText
from otr_plugin.hosts.recipes import RecipeError, refuse
from otr_plugin.hosts.swift.recipe import BLOCK, IN_MEGATRON, LOSS_TYPE, loss_types, problems_in_text, read_recipe


def asks_for_otr(args: Any) -> bool:
    return LOSS_TYPE in loss_types(getattr(args, "loss_type", None))


def patch_command(module: ModuleType) -> None:
    """Refuses a wrong recipe in swift's command itself, before it starts another process, and without a traceback."""
    original = getattr(module, "parse_yaml_args", None)
    if original is None:  # the process that trains refuses it
        return

    @functools.wraps(original)
    def parse_yaml_args(argv: list[str]) -> Any:
        if argv and argv[0].endswith(SUFFIXES):
            check_file(argv[0], argv[1:])
        return original(argv)

    replace(module, "parse_yaml_args", parse_yaml_args, "refuses wrong recipes before a process is started")


def check_file(path: str, options: list[str]) -> None:
    """End the process with a message if OTR would be misread in a recipe."""
    text = RecipeText.read(path)
    recipe = text.value if isinstance(text.value, dict) else {}
    in_file = {name: str(value) for name, value in text.block(BLOCK).items()}
    try:
        if any(option.startswith("--loss_type") for option in options):
            refuse(problems_in_text(text))  # the process that parses the command line does the rest
        else:
            read_recipe(recipe.get("loss_type"), text, in_file | os.environ)
    except RecipeError as error:
        raise SystemExit(str(error)) from None


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
        if asks_for_otr(self) or any(map(reads_as_setting, os.environ)):
            raise ValueError(IN_MEGATRON)
        original(self)

    replace(arguments, "__post_init__", post_init, "an error for recipes with OTR, which Megatron would ignore")


PATCHES = {
    "swift.cli.main": patch_command,
    "swift.trainers.trainer_factory": patch_trainer_factory,
    "swift.megatron.arguments.sft_args": patch_megatron,
}
