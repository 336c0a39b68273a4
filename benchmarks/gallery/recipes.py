"""Which recipes are in the gallery: those of example_configs/ for models that people train."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.paths import EXAMPLES

HOSTS = {"axolotl": "Axolotl", "llamafactory": "LLaMA-Factory", "trl": "TRL", "swift": "ms-swift"}
CONFIGS = EXAMPLES / "model_configs"


def recipes(host: str) -> list[Path]:
    """A host's recipes with OTR; each has a twin NAME-sft.yaml. Their names end with the card."""
    return sorted((EXAMPLES / host).glob("*gb-otr.yaml"))


def card_of(path: Path) -> tuple[int, int]:
    """How many GPUs the recipe is for, and the GB of each, from its name."""
    found = re.search(r"-(?:(\d+)x)?(\d+)gb-otr$", path.stem)
    assert found is not None, path
    return int(found[1] or 1), int(found[2])


def model_of(recipe: dict[str, Any]) -> str:
    return str(recipe.get("base_model") or recipe.get("model_name_or_path") or recipe["model"])


def config_of(model: str) -> Path:
    """The model's config; a model that was tuned for chat has that of its base."""
    name = model.rpartition("/")[2]
    return max((path for path in CONFIGS.glob("*.json") if name.startswith(path.stem)), key=lambda path: len(path.stem))
