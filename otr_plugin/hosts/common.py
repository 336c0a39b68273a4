"""What every host says in the same words."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any


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
