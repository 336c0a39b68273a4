"""Axolotl: `plugins: [otr]`, with settings under `otr:`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml
from axolotl.integrations.base import BasePlugin
from axolotl.utils.logging import get_logger
from pydantic import BaseModel, Field, model_validator

from otr_plugin import __version__
from otr_plugin.config import OTRConfig
from otr_plugin.hosts.recipes import SETTINGS_KEY, conflicts, names_otr, refuse_conflicts, untried_version
from otr_plugin.hosts.transformers.adapter import Log, attach_and_announce

LOG = get_logger("axolotl.otr")  # Axolotl shows only its own loggers' messages
TRIED = ("0.19.0",)
CARD_HEADING = "### One-Token Rollout"

# Keys with which Axolotl computes another loss, and the fix for each.
OTHER_LOSSES = {
    "liger_fused_linear_cross_entropy": "set it to false; Liger's norm, rope and SwiGLU kernels can stay",
    "liger_cross_entropy": "set it to false; Liger's norm, rope and SwiGLU kernels can stay",
    "liger_use_token_scaling": "set it to false; `otr: {objective: dft}` weights tokens the same way",
    "cut_cross_entropy": "set it to false, or remove its plugin; OTR does not hold whole logits either",
    "chunked_cross_entropy": "set it to false; OTR does not hold whole logits either",
    "use_eaft": "set it to false",
    "kd_trainer": "remove it: distillation has a loss of its own",
    "orpo_alpha": "remove it: ORPO has a loss of its own",
    "rl": "remove it: preference and RL trainers have losses of their own",
    "reward_model": "set it to false: a reward model has a loss of its own",
    "process_reward_model": "set it to false: a reward model has a loss of its own",
    "label_smoothing_factor": "set it to 0: with label smoothing the trainer computes the loss",
    "trainer_cls": "remove it: a custom trainer may compute its own loss",
    "unsloth_cross_entropy_loss": "set it to false",
}
# Plugins with which Axolotl computes another loss: the key that switches that loss off, if there is one, and the fix.
OTHER_LOSS_PLUGINS = {
    "CutCrossEntropyPlugin": ("cut_cross_entropy", "remove the plugin, or set cut_cross_entropy: false"),
    "DiffusionPlugin": (None, "remove the plugin: diffusion has a loss of its own"),
}


class OTRArgs(BaseModel):
    """The keys that the plugin adds to Axolotl's recipes."""

    otr: OTRConfig | None = Field(None, description="Settings of One-Token Rollout; all have defaults.")

    @model_validator(mode="before")
    @classmethod
    def check(cls, recipe: Any) -> Any:
        if not names_otr(recipe):
            return recipe  # Axolotl also validates with the plugins of earlier recipes in the same process
        prefix = f"{SETTINGS_KEY}."
        dotted = [key for key in recipe if isinstance(key, str) and key.startswith(prefix)]
        if dotted:  # a sweep over `otr.samples: [16, 256]` writes such a key, which Axolotl would drop as unknown
            settings = dict(recipe.get(SETTINGS_KEY) or {}) | {key.removeprefix(prefix): recipe[key] for key in dotted}
            recipe = {key: value for key, value in recipe.items() if key not in dotted} | {SETTINGS_KEY: settings}
        problems = conflicts(recipe, OTHER_LOSSES)
        for name in recipe.get("plugins") or []:
            key, fix = OTHER_LOSS_PLUGINS.get(name.rsplit(".", 1)[-1], (None, None))
            if fix and (key is None or recipe.get(key) is None):
                problems.append(f"`{name}` in plugins: {fix}")
        refuse_conflicts(problems)
        return recipe


class OTRPlugin(BasePlugin):
    def get_input_args(self) -> str:
        return f"{OTRArgs.__module__}.{OTRArgs.__qualname__}"

    def register(self, cfg: Any) -> None:
        if warning := untried_version("axolotl", TRIED):
            LOG.warning(warning)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        config = OTRConfig(**(cfg.otr.to_dict() if cfg.otr else {}))
        attach_and_announce(trainer, config, Log(LOG.info, LOG.warning))
        _add_settings_to_model_card(trainer, config)
        return []  # the trainer gets OTR's callback when it starts to train


def _add_settings_to_model_card(trainer: Any, config: OTRConfig) -> None:
    """Axolotl's model card shows the recipe's file, which lacks what the command line has changed."""
    create_model_card = trainer.create_model_card

    @functools.wraps(create_model_card)
    def create(*args: Any, **kwargs: Any) -> None:
        create_model_card(*args, **kwargs)
        card = Path(trainer.args.output_dir) / "README.md"
        if not trainer.is_world_process_zero() or not card.exists():
            return
        text = card.read_text(encoding="utf-8")
        if CARD_HEADING not in text:
            settings = yaml.safe_dump({SETTINGS_KEY: config.model_dump()}, sort_keys=False)
            section = (
                f"{CARD_HEADING}\n\nTrained with otr-plugin {__version__}, seed {trainer.args.seed} and these "
                f"settings, those of the command line included:\n\n```yaml\n{settings}```\n"
            )
            card.write_text(f"{text.rstrip()}\n\n{section}", encoding="utf-8")

    trainer.create_model_card = create
