"""What a host's table has beside its features: how its runs are made, and how its process trains one of them."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.hosts.driver import HostDriver
from benchmarks.hosts.features.data import add_data, add_models
from benchmarks.hosts.features.feature import Feature

Log = list[dict[str, Any]]


class Host(ABC):
    """One column of the table. `start` and `train` run in a process of the host's own; see worker.py."""

    title: ClassVar[str]
    package: ClassVar[str]
    versions: ClassVar[Mapping[str, str]]  # the tested versions, and the name of each one's result file
    # Packages whose versions stand beside the results.
    others: ClassVar[tuple[str, ...]] = ("transformers", "peft", "accelerate", "bitsandbytes", "torch")
    features: ClassVar[Mapping[str, Feature]]
    Driver: ClassVar[type[HostDriver]]

    def driver(self, folder: Path) -> HostDriver:
        """Makes models and data in the folder."""
        driver = self.Driver(folder)
        add_models(folder / "model")
        add_data(folder)
        (folder / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": 2}}))
        return driver

    def with_otr(self, recipe: dict[str, Any], **settings: Any) -> dict[str, Any]:
        """Returns the recipe with the plugin and its settings."""
        return recipe | {"plugins": [*recipe.get("plugins", []), "otr"], "otr": settings}

    def recipe(self, feature: Feature) -> dict[str, Any]:
        """The keys of the feature and of those that it is added to."""
        beneath = self.features[feature.on]
        return dict(feature.keys) if feature is beneath else self.recipe(beneath) | dict(feature.keys)

    @abstractmethod
    def start(self) -> None:
        """Imports the host."""

    @abstractmethod
    def train(self, recipe: Path) -> Log:
        """Does what the host's command does with this recipe; returns the log history."""
