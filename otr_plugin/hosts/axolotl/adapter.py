"""Axolotl: `plugins: [otr]`, with settings under `otr:`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import yaml
from axolotl.integrations.base import BasePlugin, PluginManager
from axolotl.utils.logging import get_logger
from pydantic import BaseModel, Field, model_validator

from otr_plugin import __version__
from otr_plugin.config import OTRConfig
from otr_plugin.hosts.axolotl.recipe import HOST, TRIED
from otr_plugin.hosts.mentions import SETTINGS_KEY, is_plugin_name
from otr_plugin.hosts.mistakes import is_dotted_setting
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.recipes import named_plugins, read_recipe, untried_version
from otr_plugin.hosts.transformers.adapter import Log, attach_and_announce, require_kernel

LOG = get_logger("axolotl.otr")  # Axolotl shows only its own loggers' messages
CARD_HEADING = "### One-Token Rollout"


class OTRArgs(BaseModel):
    """The keys that the plugin adds to Axolotl's recipes."""

    otr: OTRConfig | None = Field(None, description="Settings of One-Token Rollout; all have defaults.")

    @model_validator(mode="before")
    @classmethod
    def check(cls, recipe: Any) -> Any:
        if not any(map(loads_otr, named_plugins(recipe))):
            return recipe  # Axolotl also validates with the plugins of earlier recipes in the same process
        config = read_recipe(HOST, recipe, RecipeText.read(recipe.get("axolotl_config_path")), is_otr=loads_otr)
        assert config is not None
        require_kernel(config)
        recipe = {key: value for key, value in recipe.items() if not is_dotted_setting(str(key), HOST)}
        return recipe | {SETTINGS_KEY: config}


class OTRPlugin(BasePlugin):
    """Axolotl keeps the plugins of earlier recipes in the same process registered, under the names that they had there.

    It calls all of them for every recipe, so each acts only for a recipe that has its name.
    """

    def get_input_args(self) -> str | None:
        first = next(plugin for plugin in _registered().values() if isinstance(plugin, OTRPlugin))
        return f"{OTRArgs.__module__}.{OTRArgs.__qualname__}" if first is self else None  # a recipe has its keys once

    def register(self, cfg: Any) -> None:
        if self._is_named_in(cfg) and (warning := untried_version("axolotl", TRIED)):
            LOG.warning(warning)

    def _is_named_in(self, cfg: Any) -> bool:
        return any(_registered().get(name) is self for name in named_plugins(cfg))

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        if self._is_named_in(cfg):
            config = OTRConfig(**(cfg.otr.to_dict() if cfg.otr else {}))
            attach_and_announce(trainer, config, Log(LOG.info, LOG.warning))
            _add_settings_to_model_card(trainer, config)
        return []  # the trainer gets OTR's callback when it starts to train


def _registered() -> dict[str, BasePlugin]:
    plugins: dict[str, BasePlugin] = PluginManager.get_instance().plugins
    return plugins


def loads_otr(name: Any) -> bool:
    """Whether a name under `plugins:` has loaded this plugin, or a subclass of it."""
    if is_plugin_name(name):
        return True
    module, _, attribute = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    loaded = getattr(sys.modules.get(module), attribute, None)
    return isinstance(loaded, type) and issubclass(loaded, OTRPlugin)


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
