"""One-Token Rollout: supervised fine-tuning as a policy gradient, as a loss.

Importing the package imports neither torch nor a host; names load on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otr_plugin.config import OTRConfig
    from otr_plugin.loss import OTROutput, otr_loss

__version__ = "0.1.0"
__all__ = ["OTRConfig", "OTROutput", "__version__", "otr_loss"]

_HOME = {
    "OTRConfig": "otr_plugin.config",
    "OTROutput": "otr_plugin.loss",
    "otr_loss": "otr_plugin.loss",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'otr_plugin' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
