"""A forward replaced on one module, so that its copies, its wrappers and its signature stay what hosts expect."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

Forward = Callable[..., Any]


class Replaced:
    """make(forward) stands where the module's forward is called, until `undo`.

    Where accelerate has hooked a module, that is `_old_forward`, which its hook calls.
    """

    def __init__(self, module: Any, make: Callable[[Forward], Forward]) -> None:
        hooked = hasattr(module, "_hf_hook") and hasattr(module, "_old_forward")
        self.module, self.name = module, "_old_forward" if hooked else "forward"
        self.before = module.__dict__.get(self.name)
        original = getattr(module, self.name)
        # A method over a function: a copy of the module is then bound to the copy, and accelerate can wrap it.
        own = getattr(original, "__func__", None) or _ignoring_self(original)
        new = functools.update_wrapper(make(own), own)
        # Hosts read the signature here. They also take wrappers off as far as __wrapped__ leads: not past this one.
        new.__signature__ = inspect.signature(own)  # type: ignore[attr-defined] # functions take any attribute
        del new.__wrapped__
        setattr(module, self.name, MethodType(new, module))

    def undo(self) -> None:
        if self.before is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.before)


def _ignoring_self(bound: Forward) -> Forward:
    def own(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bound(*args, **kwargs)

    return own
