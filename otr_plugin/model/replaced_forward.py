"""Replaces the forward of one module, and keeps its copies, wrappers and signature as hosts expect them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

Forward = Callable[..., Any]


class ReplacedForward:
    """The forward of `module`, replaced by `make_replacement(original)` until `undo`.

    Both `original` and its replacement are functions whose first argument is the module. On a module that accelerate
    has hooked, `_old_forward` is replaced: accelerate's hook is the module's `forward`, and calls it.
    """

    def __init__(self, module: Any, make_replacement: Callable[[Forward], Forward]) -> None:
        hooked = hasattr(module, "_hf_hook") and hasattr(module, "_old_forward")
        self.module, self.name = module, "_old_forward" if hooked else "forward"
        self.instance_attribute = module.__dict__.get(self.name)
        replacement = _replacement(getattr(module, self.name), make_replacement)
        if "_original_forward" in module.__dict__:
            # accelerate has wrapped the forward for mixed precision. To take its wrapper off, unwrap_model follows
            # __wrapped__ and makes the function found there the model's forward: OTR over the forward before.
            replacement.__wrapped__ = _replacement(module._original_forward, make_replacement)
        # A method binds anew in a deep copy of the module, so the copy's forward runs on the copy. accelerate wraps the
        # `__func__` of a forward for mixed precision, and a method has one.
        setattr(module, self.name, MethodType(replacement, module))

    def undo(self) -> None:
        """Restore what the module had: an attribute of the instance, or only its class's method."""
        if self.instance_attribute is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.instance_attribute)


def _replacement(current: Forward, make_replacement: Callable[[Forward], Forward]) -> Any:
    """The function that replaces a module's current forward, with its name and signature."""
    original = getattr(current, "__func__", None) or _ignoring_self(current)
    replacement: Any = functools.update_wrapper(make_replacement(original), original)
    # Trainer drops the columns of a dataset that the signature of the model's forward does not name.
    replacement.__signature__ = inspect.signature(original)
    # update_wrapper has set __wrapped__. Undoing mixed precision, accelerate's unwrap_model follows __wrapped__ as
    # far as it leads and makes the function found there the model's forward, which would remove OTR.
    del replacement.__wrapped__
    return replacement


def _ignoring_self(bound: Forward) -> Forward:
    """Give a callable that is no method the module as its first argument, and drop it."""

    def original(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bound(*args, **kwargs)

    return original
