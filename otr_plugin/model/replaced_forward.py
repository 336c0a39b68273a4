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
        current = getattr(module, self.name)
        original = getattr(current, "__func__", None) or _ignoring_self(current)
        replacement = functools.update_wrapper(make_replacement(original), original)
        # Trainer drops the columns of a dataset that the signature of the model's forward does not name.
        replacement.__signature__ = inspect.signature(original)  # type: ignore[attr-defined] # not in mypy's Callable
        # update_wrapper has set __wrapped__. Undoing mixed precision, accelerate's unwrap_model follows __wrapped__ as
        # far as it leads and makes the function found there the model's forward, which would remove OTR.
        del replacement.__wrapped__
        # A method binds anew in a deep copy of the module, so the copy's forward runs on the copy. accelerate wraps the
        # `__func__` of a forward for mixed precision, and a method has one.
        setattr(module, self.name, MethodType(replacement, module))

    def undo(self) -> None:
        """Restore what the module had: an attribute of the instance, or only its class's method."""
        if self.instance_attribute is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.instance_attribute)


def _ignoring_self(bound: Forward) -> Forward:
    """Give a callable that is no method the module as its first argument, and drop it."""

    def original(self: Any, *args: Any, **kwargs: Any) -> Any:
        return bound(*args, **kwargs)

    return original
