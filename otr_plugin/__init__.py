"""One-Token Rollout (OTR): supervised fine-tuning as a policy gradient, implemented as a loss.

Importing this package imports neither torch nor a host, because every Python process of the environment may import it
at its start. Each public name is imported from its module on first use.
"""

TYPE_CHECKING = False  # importing typing.TYPE_CHECKING would slow down every start of Python
if TYPE_CHECKING:
    from otr_plugin.config import OTRConfig
    from otr_plugin.hosts.axolotl.adapter import OTRPlugin
    from otr_plugin.loss import OTROutput, otr_loss
    from otr_plugin.model.attach import attach

__version__ = "0.1.0"
__all__ = ["OTRConfig", "OTROutput", "OTRPlugin", "__version__", "attach", "otr_loss"]

_MODULES = {
    "OTRConfig": "otr_plugin.config",
    "OTROutput": "otr_plugin.loss",
    "OTRPlugin": "otr_plugin.hosts.axolotl.adapter",
    "attach": "otr_plugin.model.attach",
    "otr_loss": "otr_plugin.loss",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'otr_plugin' has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(_MODULES[name]), name)
    except ImportError as error:
        # Axolotl logs an ImportError from a plugin and trains without the plugin; another error stops it.
        raise RuntimeError(f"otr_plugin.{name} cannot be imported: {error}") from error


def __dir__() -> list[str]:
    return sorted(__all__)
