"""What the hosts' recipes have in common: the plugin's names, its settings, and the messages that refuse a recipe.

Imports neither torch nor a host: start.py of every host uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otr_plugin.config import OTRConfig

PLUGIN_NAMES = ("otr", "otr_plugin.OTRPlugin")  # what a recipe may write under `plugins:`
SETTINGS_KEY = "otr"  # the block of settings; also the attribute that carries them on a host's parsed arguments


def named_plugins(recipe: Mapping[str, Any]) -> list[Any]:
    """The recipe's `plugins:`, which may be one name, a list, or missing."""
    named = recipe.get("plugins") or []
    return [named] if isinstance(named, str) else list(named)


def names_otr(recipe: Mapping[str, Any]) -> bool:
    return any(name in PLUGIN_NAMES for name in named_plugins(recipe))


def asks_for_otr(recipe: Any) -> bool:
    """Whether a recipe names the plugin, or has settings for it."""
    return isinstance(recipe, Mapping) and (SETTINGS_KEY in recipe or names_otr(recipe))


def unread_settings(key: str, named: list[Any]) -> str:
    """The message for a recipe that has settings for OTR but does not name the plugin."""
    return (
        f"otr: the recipe has `{key}:`, but `plugins:` ({named}) does not name otr, so the run would ignore the "
        "settings and train without OTR. Add `plugins: [otr]`, or remove the setting."
    )


def read_settings(host: str, plugins: Any, settings: Any, overrides: Mapping[str, Any] | None = None) -> OTRConfig:
    """The configuration in a recipe of a host without plugins of its own; `overrides` come from the command line."""
    from otr_plugin.config import OTRConfig

    named = named_plugins({"plugins": plugins})
    if not any(name in PLUGIN_NAMES for name in named):
        raise ValueError(
            unread_settings(SETTINGS_KEY, named)
            if settings is not None or overrides
            else f"otr: the recipe has `plugins: {named}`, but the only plugin in {host} is otr."
        )
    others = [name for name in named if name not in PLUGIN_NAMES]
    if others:
        raise ValueError(f"otr: the recipe has {others} under `plugins:`, but the only plugin in {host} is otr.")
    if not isinstance(settings, dict | None):
        raise ValueError(
            f"otr: `otr:` should hold settings, such as `samples: 256`, but the recipe has {settings!r} there."
        )
    return OTRConfig(**(settings or {}) | dict(overrides or {}))


def conflicts(recipe: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """One message for each of `keys` that the recipe sets; `keys` maps a key to the fix."""
    return [f"`{key}: {recipe[key]}`: {fix}" for key, fix in keys.items() if recipe.get(key)]


def refuse_conflicts(problems: list[str], switched_on_by: str = "`plugins: [otr]`") -> None:
    """Raise if the recipe selects a loss other than OTR's, because the run would then train something else."""
    if problems:
        raise ValueError(
            f"{switched_on_by} trains with One-Token Rollout, but this recipe also selects another loss, and the run "
            f"would not train with OTR. {'; '.join(problems)}."
        )


def untried_version(package: str, tried: tuple[str, ...]) -> str | None:
    """A warning if the installed version is not among those that OTR was tested with."""
    found = version(package)
    if found in tried:
        return None
    return (
        f"otr: tested with {package} {', '.join(tried)}; {found} is installed. On the first step OTR compares its loss "
        "with the model's own, and stops if they differ."
    )
