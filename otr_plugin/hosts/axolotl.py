"""Axolotl: `plugins: [otr]`, with settings under `otr:`. Run with the versions in TRIED."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from axolotl.utils.logging import get_logger
from pydantic import BaseModel, Field, model_validator

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.common import refuse, said_elsewhere, untried
from otr_plugin.hosts.trainer import join

LOG = get_logger("axolotl.otr")  # Axolotl shows the log lines of its own loggers
TRIED = ("0.19.0",)

# Keys with which Axolotl would compute the loss elsewhere, and what to do about each.
LOSS_ELSEWHERE = {
    "liger_fused_linear_cross_entropy": "set it to false; Liger's norm, rope and SwiGLU kernels can stay",
    "liger_cross_entropy": "set it to false; Liger's norm, rope and SwiGLU kernels can stay",
    "liger_use_token_scaling": "set it to false; `otr: {objective: dft}` weights tokens the same way",
    "cut_cross_entropy": "set it to false, or remove its plugin; OTR holds no whole logits either",
    "chunked_cross_entropy": "set it to false; OTR holds no whole logits either",
    "use_eaft": "set it to false",
    "kd_trainer": "remove it: distillation has a loss of its own",
    "orpo_alpha": "remove it: ORPO has a loss of its own",
    "rl": "remove it: preference and RL trainers have losses of their own",
    "reward_model": "set it to false: a reward model has a loss of its own",
    "process_reward_model": "set it to false: a reward model has a loss of its own",
    "label_smoothing_factor": "set it to 0: the trainer would compute the loss",
    "trainer_cls": "remove it: a trainer of your own may compute the loss",
    "unsloth_cross_entropy_loss": "set it to false",
}
PLUGINS_ELSEWHERE = {
    "CutCrossEntropyPlugin": ("cut_cross_entropy", "remove the plugin, or set cut_cross_entropy: false"),
    "DiffusionPlugin": (None, "remove the plugin: diffusion has a loss of its own"),
}


class OTRArgs(BaseModel):
    """What the plugin adds to a recipe."""

    otr: OTRConfig | None = Field(None, description="Settings of One-Token Rollout; all have defaults.")

    @model_validator(mode="before")
    @classmethod
    def read(cls, recipe: Any) -> Any:
        if not any(name in ("otr", "otr_plugin.OTRPlugin") for name in recipe.get("plugins") or []):
            return recipe  # Axolotl keeps the plugins of earlier recipes in the same process
        dotted = [key for key in recipe if isinstance(key, str) and key.startswith("otr.")]
        if dotted:  # a sweep's: `otr.samples: [16, 256]` becomes a key of that name, which Axolotl would drop
            settings = dict(recipe.get("otr") or {}) | {key.removeprefix("otr."): recipe[key] for key in dotted}
            recipe = {key: value for key, value in recipe.items() if key not in dotted} | {"otr": settings}
        problems = said_elsewhere(recipe, LOSS_ELSEWHERE)
        for name in recipe.get("plugins") or []:
            key, fix = PLUGINS_ELSEWHERE.get(name.rsplit(".", 1)[-1], (None, None))
            if fix and (key is None or recipe.get(key) is None):
                problems.append(f"`{name}` in plugins: {fix}")
        refuse(problems)
        return recipe


class OTRPlugin(BasePlugin):
    def get_input_args(self) -> str:
        return "otr_plugin.hosts.axolotl.OTRArgs"

    def register(self, cfg: Any) -> None:
        if warning := untried("axolotl", TRIED):
            LOG.warning(warning)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        settings = cfg.otr.to_dict() if cfg.otr else {}
        handle = join(trainer, OTRConfig(**settings))
        LOG.info(handle.describe())
        return []
