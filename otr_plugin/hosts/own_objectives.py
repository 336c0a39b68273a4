"""Keys with which a host trains an objective that this package has, too, and what these keys become in its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otr_plugin.config import OTRConfig


@dataclass(frozen=True)
class OwnObjective:
    """An objective of the host's own."""

    name: str  # of ours
    alpha: str | None = None  # the host's key for its exponent

    def settings(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Our settings for the recipe's objective."""
        if self.alpha is None:
            return {"objective": self.name}
        value = recipe.get(self.alpha)
        return {"objective": self.name, "alpha": OTRConfig.model_fields["alpha"].default if value is None else value}

    def with_values(self, fix: str, recipe: Mapping[str, Any]) -> str:
        """The fix of a refused key, with the recipe's exponent in place of the name of its key."""
        return fix if self.alpha is None else fix.replace(self.alpha, str(self.settings(recipe)["alpha"]))
