"""Every change to a host's module or class is made here, so that it can be traced and undone.

Imports only the standard library, so that a process that imports a host but does not use OTR pays for nothing more.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

Patch = Callable[[ModuleType], None]

_undo: dict[str, list[Callable[[], None]]] = {}  # by the module's name


def replace(owner: Any, attribute: str, replacement: Any, why: str) -> None:
    """Set `owner.attribute`, where owner is a module or a class of a host. `undo` sets it back."""
    module = owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
    target = f"{module if isinstance(owner, ModuleType) else f'{module}.{owner.__name__}'}.{attribute}"
    inherited = attribute not in vars(owner)
    original = vars(owner).get(attribute)  # getattr would turn a staticmethod into a function

    def put_back() -> None:
        if vars(owner).get(attribute) is not replacement:
            trace(f"left {target} alone: another package has replaced it since")
        elif inherited:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, original)

    setattr(owner, attribute, replacement)
    _undo.setdefault(module, []).append(put_back)
    caller = sys._getframe(1)
    trace(f"{caller.f_globals['__name__']}.{caller.f_code.co_name} replaced {target}: {why}")


def undo(module: str) -> None:
    """Set back what `replace` has set in this module, in reverse order."""
    for put_back in reversed(_undo.pop(module, [])):
        put_back()
        trace(f"restored {module}")


def marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function, so that `is_marked` recognises it and a patch is not applied twice."""
    function.__otr_patch__ = True  # type: ignore[attr-defined] # functions take any attribute
    return function


def is_marked(function: Any) -> bool:
    return hasattr(function, "__otr_patch__")


def is_traced() -> bool:
    return os.environ.get("OTR_PLUGIN_TRACE", "0") not in ("", "0")


def trace(event: str) -> None:
    """Print one line to stderr if OTR_PLUGIN_TRACE=1."""
    if is_traced():
        print(f"otr trace, process {os.getpid()}: {event}", file=sys.stderr, flush=True)


def adapter(host: str) -> Any:
    """The host's adapter.py, imported only now, because it imports torch and the host."""
    return import_module(f"otr_plugin.hosts.{host}.adapter")


def or_else(refuse: Callable[[ModuleType, Exception], None]) -> Callable[[Patch], Patch]:
    """Make a patch that cannot break a host: if it fails, `refuse(module, error)` runs instead.

    If patching fails, recipes without OTR run and recipes with it are refused.
    """

    def decorate(patch: Patch) -> Patch:
        @functools.wraps(patch)
        def patch_or_refuse(module: ModuleType) -> None:
            try:
                patch(module)
            except Exception as error:
                trace(f"{module.__name__} could not be patched: {error!r}. Recipes with OTR will be refused")
                refuse(module, error)

        return patch_or_refuse

    return decorate
