"""Patches Axolotl when a process imports it.

The patches add the short name `otr`, options such as `--otr.samples 16`, and an error for settings of OTR in a recipe
that does not name the plugin.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from otr_plugin.hosts.patching import replace
from otr_plugin.hosts.recipes import PLUGIN_NAMES, SETTINGS_KEY, named_plugins, names_otr, unread_settings


def patch_load_plugin(module: ModuleType) -> None:
    """Makes `plugins: [otr]` load the plugin. Axolotl's load_plugin accepts only names such as module.Class."""
    original = getattr(module, "load_plugin", None)
    if original is None:  # Axolotl then rejects `otr` by itself
        return

    def load_plugin(plugin_name: str) -> Any:
        if plugin_name not in PLUGIN_NAMES:
            return original(plugin_name)
        from otr_plugin import OTRPlugin  # raises RuntimeError, as Axolotl logs an ImportError and trains without OTR

        return OTRPlugin()

    replace(module, "load_plugin", load_plugin, "the short name otr, which is not module.Class")


def patch_cli_options(module: ModuleType) -> None:
    """Adds one command-line option (names, parameter, type, help) for each setting, such as `--otr.samples 16`."""
    original = getattr(module, "AXOLOTL_CONFIG_CLI_OPTIONS", None)
    if isinstance(original, tuple) and all(len(option) == 4 for option in original):
        from otr_plugin.config import OTRConfig

        options = tuple(
            ((f"--otr.{name.replace('_', '-')}",), f"otr__{name}", None, field.description)
            for name, field in OTRConfig.model_fields.items()
        )
        replace(module, "AXOLOTL_CONFIG_CLI_OPTIONS", original + options, "options such as --otr.samples 16")


def patch_prepare_plugins(module: ModuleType) -> None:
    """Raises for settings without the plugin. Axolotl drops unknown keys, and would train plain SFT."""
    original = getattr(module, "prepare_plugins", None)
    if original is None:
        return

    def prepare_plugins(cfg: Any) -> None:
        original(cfg)
        settings = [key for key in cfg if key == SETTINGS_KEY or str(key).startswith(f"{SETTINGS_KEY}.")]
        if settings and not names_otr(cfg):
            raise ValueError(unread_settings(settings[0], named_plugins(cfg)))

    replace(module, "prepare_plugins", prepare_plugins, "an error for settings of OTR without the plugin")


PATCHES = {
    "axolotl.integrations.base": patch_load_plugin,
    "axolotl.cli.config_options": patch_cli_options,
    "axolotl.cli.config": patch_prepare_plugins,
}
