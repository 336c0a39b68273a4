"""TRL's recipes: where they are on a command line, and what conflicts with OTR. Imports neither torch nor TRL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from otr_plugin.hosts.mentions import SETTINGS_KEY
from otr_plugin.hosts.mistakes import Host
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.recipe_text import RecipeText

TRIED = ("1.9.0", "1.16.0")  # versions that the tests run
OTHER_LOSSES = {"label_smoothing_factor": "set it to 0: with label smoothing the trainer computes the loss"}
OWN_OBJECTIVES = {"dft": OwnObjective("dft")}  # by the value of loss_type
PLAIN_LOSSES = (None, "nll", "chunked_nll")  # cross entropy, computed by a head that OTR replaces


def other_losses(arguments: Mapping[str, Any]) -> list[str]:
    """A problem for each argument, of a recipe or parsed, whose value selects another loss."""
    problems = []
    loss_type, liger = arguments.get("loss_type"), arguments.get("liger_kernel_config")
    if loss_type not in PLAIN_LOSSES:
        fix = "remove it" + ("; `otr: {objective: dft}` is that loss" if loss_type == "dft" else "")
        problems.append(f"`loss_type: {loss_type}`: {fix}")
    if isinstance(liger, Mapping) and liger.get("fused_linear_cross_entropy"):
        problems.append(
            "`fused_linear_cross_entropy` in liger_kernel_config: set it to false; Liger's other kernels can stay"
        )
    return problems


HOST = Host("TRL", OTHER_LOSSES, other_problems=other_losses)
OPTION = f"--{SETTINGS_KEY}."


def recipe_path(command_line: Sequence[str]) -> Path | None:
    """The file that `--config` names on a command line of TRL's."""
    if "--config" not in command_line[:-1]:
        return None
    return Path(command_line[list(command_line).index("--config") + 1])


def recipe_text(command_line: Sequence[str]) -> RecipeText:
    """Its text; an empty one without such a file. TRL reports a file that cannot be read or parsed."""
    return RecipeText.read(recipe_path(command_line))


def split_options(command_line: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """A command line without OTR's options, and these options: `--otr.samples 16` or `--otr.samples=16`."""
    rest, found = [], {}
    words = iter(command_line)
    for word in words:
        if not word.startswith(OPTION):
            rest.append(word)
            continue
        name, equals, value = word.removeprefix(OPTION).partition("=")
        if not equals:
            value = next(words, "")
        found[name.replace("-", "_")] = yaml.safe_load(value)
    return rest, found
