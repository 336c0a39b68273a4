"""Axolotl's recipes: what conflicts with OTR there. Imports neither torch nor Axolotl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otr_plugin.hosts.mentions import is_plugin_name
from otr_plugin.hosts.mistakes import Host
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.recipes import named_plugins

CLASS = "otr_plugin.hosts.axolotl.adapter.OTRPlugin"
TRIED = ("0.19.0",)  # versions that the tests run
# Keys with which Axolotl computes another loss, and the fix for each.
OTHER_LOSSES = {
    "liger_fused_linear_cross_entropy": "set it to false; Liger's norm, rope and SwiGLU kernels can stay",
    "liger_cross_entropy": "set it to false; Liger's norm, rope and SwiGLU kernels can stay",
    "liger_use_token_scaling": "set it to false; `otr: {objective: dft}` weights tokens the same way",
    "cut_cross_entropy": "set it to false, or remove its plugin; OTR does not hold whole logits either",
    "chunked_cross_entropy": "set it to false; OTR does not hold whole logits either",
    "use_eaft": "set it to false; `otr: {objective: eaft, alpha: eaft_alpha}` is that loss, divided by (ln 20)^alpha, "
    "without whole logits",
    "kd_trainer": "remove it: distillation has a loss of its own",
    "orpo_alpha": "remove it: ORPO has a loss of its own",
    "rl": "remove it: preference and RL trainers have losses of their own",
    "reward_model": "set it to false: a reward model has a loss of its own",
    "process_reward_model": "set it to false: a reward model has a loss of its own",
    "label_smoothing_factor": "set it to 0: with label smoothing the trainer computes the loss",
    "trainer_cls": "remove it: a custom trainer may compute its own loss",
    "unsloth_cross_entropy_loss": "set it to false",
}
OWN_OBJECTIVES = {"use_eaft": OwnObjective("eaft", "eaft_alpha"), "liger_use_token_scaling": OwnObjective("dft")}
# Plugins with which Axolotl computes another loss: the key that switches that loss off, if there is one, and the fix.
OTHER_LOSS_PLUGINS = {
    "CutCrossEntropyPlugin": ("cut_cross_entropy", "remove the plugin, or set cut_cross_entropy: false"),
    "DiffusionPlugin": (None, "remove the plugin: diffusion has a loss of its own"),
}


def is_class_name(name: Any) -> bool:
    """Whether the name is this plugin's, or the full path of its class. Imports nothing."""
    return is_plugin_name(name) or name == CLASS


def other_loss_plugins(recipe: Mapping[str, Any]) -> list[str]:
    """A problem for each plugin of the recipe that computes another loss."""
    problems = []
    for name in named_plugins(recipe):
        key, fix = OTHER_LOSS_PLUGINS.get(str(name).rsplit(".", 1)[-1], (None, None))
        if fix and (key is None or recipe.get(key) is None):
            problems.append(f"`{name}` in plugins: {fix}")
    return problems


HOST = Host(
    "Axolotl",
    OTHER_LOSSES,
    has_plugins=True,
    own_keys=("trl",),  # whose block has `beta` and `temperature`, too
    dotted_keys=True,
    own_objectives=OWN_OBJECTIVES,
    other_problems=other_loss_plugins,
)
