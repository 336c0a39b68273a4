"""LLaMA-Factory's recipes: where their text is, and what conflicts with OTR. Imports neither torch nor the host."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from otr_plugin.hosts.mistakes import Host
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.recipe_text import SUFFIXES, RecipeText

TRIED = ("0.9.5",)  # versions that the tests run
STAGES = ("sft", "pt")
# Keys with which LLaMA-Factory computes another loss, and the fix for each.
OTHER_LOSSES = {
    "use_dft_loss": "set it to false; `otr: {objective: dft}` is that loss, without whole logits",
    "use_eaft_loss": "set it to false; `otr: {objective: eaft, alpha: eaft_alpha}` is that loss, without whole logits",
    "use_asft_loss": "set it to false; OTR has no such loss, which needs the logits of a second model. "
    "`otr: {objective: dft}` is its part without that model",
    "use_unsloth": "set it to false: Unsloth's forward computes the loss without calling the model's head",
    "use_mca": "set it to false: Megatron's trainer computes the loss",
    "use_hyper_parallel": "set it to false: its trainer computes the loss",
    "use_kt": "set it to false: OTR has not been tested with KTransformers' trainer",
    "label_smoothing_factor": "set it to 0: with label smoothing the trainer computes the loss",
}
OWN_OBJECTIVES = {"use_dft_loss": OwnObjective("dft"), "use_eaft_loss": OwnObjective("eaft", "eaft_alpha")}


def recipe_text(command_line: Sequence[str] | None = None) -> RecipeText:
    """The file that the command line names; an empty text if it names none."""
    words = sys.argv[1:] if command_line is None else command_line
    return RecipeText.read(words[0] if words and words[0].endswith(SUFFIXES) else None)


def other_stages(recipe: Mapping[str, Any]) -> list[str]:
    """A problem if the recipe's stage has a loss of its own."""
    stage = recipe.get("stage", "sft")
    if stage in STAGES:
        return []
    return [f"`stage: {stage}`: set it to sft or pt; the others have losses of their own"]


HOST = Host(
    "LLaMA-Factory",
    OTHER_LOSSES,
    own_keys=("temperature", "top_k", "top_p"),  # of generation
    own_objectives=OWN_OBJECTIVES,
    other_problems=other_stages,
)
