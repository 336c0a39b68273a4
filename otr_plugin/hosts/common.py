"""What every host says in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from otr_plugin.autoload import NAMES, named_plugins, nobody_reads
from otr_plugin.config import OTRConfig


def settings_of(host: str, plugins: Any, settings: Any, overrides: Mapping[str, Any] | None = None) -> OTRConfig:
    """What a recipe says under `plugins:` and `otr:`, and a command line over it, in a host that has no plugins."""
    named = named_plugins({"plugins": plugins})
    if not any(name in NAMES for name in named):
        raise ValueError(
            nobody_reads("otr", named)
            if settings is not None or overrides
            else f"otr: the recipe has `plugins: {named}`; the one plugin that there is in {host} is otr."
        )
    others = [name for name in named if name not in NAMES]
    if others:
        raise ValueError(f"otr: the recipe has {others} under `plugins:`; in {host} there is only otr.")
    if not isinstance(settings, dict | None):
        raise ValueError(f"otr: `otr:` holds settings, such as `samples: 256`; the recipe has {settings!r} there.")
    return OTRConfig(**(settings or {}) | dict(overrides or {}))


def said_elsewhere(recipe: Mapping[str, Any], keys: Mapping[str, str]) -> list[str]:
    """Which of these keys a recipe sets, with what to do about each."""
    return [f"`{key}: {recipe[key]}`: {fix}" for key, fix in keys.items() if recipe.get(key)]


def refuse(problems: list[str], asked: str = "`plugins: [otr]`") -> None:
    """Nobody should train something else under OTR's name."""
    if problems:
        raise ValueError(
            f"{asked} trains with One-Token Rollout, but this recipe also says that the loss is computed "
            "elsewhere, and OTR would not be trained. " + "; ".join(problems) + "."
        )


def untried(package: str, tried: tuple[str, ...]) -> str | None:
    """A warning, where the installed version is none that OTR was run with."""
    found = version(package)
    if found in tried:
        return None
    return f"otr: tried with {package} {', '.join(tried)}; this is {found}. The first step checks the loss."
