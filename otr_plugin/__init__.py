"""One-Token Rollout: supervised fine-tuning as a policy gradient, as a loss.

Importing the package imports neither torch nor a host; names load on first use.
"""

TYPE_CHECKING = False  # typing's own would cost every Python start-up an import
if TYPE_CHECKING:
    from otr_plugin.config import OTRConfig
    from otr_plugin.hosts.axolotl.adapter import OTRPlugin
    from otr_plugin.loss import OTROutput, otr_loss
    from otr_plugin.model.attach import attach

__version__ = "0.1.0"
__all__ = ["OTRConfig", "OTROutput", "OTRPlugin", "__version__", "attach", "otr_loss"]

_HOME = {
    "OTRConfig": "otr_plugin.config",
    "OTROutput": "otr_plugin.loss",
    "OTRPlugin": "otr_plugin.hosts.axolotl.adapter",
    "attach": "otr_plugin.model.attach",
    "otr_loss": "otr_plugin.loss",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'otr_plugin' has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_HOME[name]), name)
    except ImportError as error:
        # Axolotl takes an ImportError from a plugin for a reason to go on without it.
        raise RuntimeError(f"otr_plugin.{name} cannot be imported: {error}") from error


def __dir__() -> list[str]:
    return sorted(__all__)
