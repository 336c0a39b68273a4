"""Fake tensors whose values are known: labels, positions, masks, counts.

A training step reads the values of a few small tensors: to count the labels that are trained, for example, or to find
the lengths of packed sequences. Fake tensors have no values. So integers and booleans that depend on no weight are
computed for real beside their fake twins. An operation that reads a value, or whose result has a size that depends on
one, uses the real twin.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

MOST_ELEMENTS = 2**22  # of a tensor whose values are kept
MOST_FLOATS = 64
VALUE = "_otr_value"  # the attribute of a fake tensor that holds its real twin
READS_A_VALUE = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
TAKES_A_SHAPE = {
    getattr(torch.ops.aten, name).default for name in ("ones_like", "zeros_like", "full_like", "new_zeros")
}
TAKES_A_SHAPE |= {getattr(torch.ops.aten, name).default for name in ("new_ones", "new_full")}
UNKNOWN = object()


class KnownValues(TorchDispatchMode):
    """Keeps real twins of small tensors. Use it as `with fake_mode, KnownValues(fake_mode):`."""

    def __init__(self, fake_mode: FakeTensorMode) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self.fake_mode = fake_mode

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "prim":  # reads a tensor's device or shape
            return function(*args, **kwargs)
        real = self._real_result(function, args, kwargs)
        if function in READS_A_VALUE and real is not UNKNOWN:
            return real
        try:
            result = function(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if real is UNKNOWN:
                raise
            return tree_map(self._fake, real)
        if real is not UNKNOWN:
            _attach(result, real)
        elif function._schema.is_mutable:
            for tensor in tree_iter(result):
                if isinstance(tensor, FakeTensor):
                    tensor.__dict__.pop(VALUE, None)
        return result

    def _real_result(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The operation's result on the real twins; UNKNOWN if an argument has none, or it is too large."""
        tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
        if torch.Tag.nondeterministic_seeded in function.tags:
            return UNKNOWN
        if tensors and function not in TAKES_A_SHAPE and any(_value_of(one) is None for one in tensors):
            return UNKNOWN
        if not tensors and not _makes_a_small_tensor(function, args, kwargs):
            return UNKNOWN
        if function in TAKES_A_SHAPE and _value_of(args[0]) is None:
            if not _may_keep(args[0]):
                return UNKNOWN
            with unset_fake_temporarily():
                args = (torch.empty(args[0].shape, dtype=args[0].dtype), *args[1:])
        with unset_fake_temporarily():
            real_args, real_kwargs = tree_map(_twin, (args, kwargs))
            result = function(*real_args, **real_kwargs)
        return result if all(_may_keep(one) for one in tree_iter(result)) else UNKNOWN

    def _fake(self, real: Any) -> Any:
        if not isinstance(real, torch.Tensor):
            return real
        with unset_fake_temporarily():
            fake = self.fake_mode.from_tensor(real)
        setattr(fake, VALUE, real)
        return fake


def _attach(result: Any, real: Any) -> None:
    for fake, value in zip(tree_iter(result), tree_iter(real), strict=True):
        if isinstance(fake, FakeTensor):
            setattr(fake, VALUE, value)


def _value_of(tensor: torch.Tensor) -> torch.Tensor | None:
    if isinstance(tensor, FakeTensor):
        value: torch.Tensor | None = tensor.__dict__.get(VALUE)
        return value
    return tensor if type(tensor) is torch.Tensor and _may_keep(tensor) else None


def _twin(argument: Any) -> Any:
    return _value_of(argument) if isinstance(argument, torch.Tensor) else argument


def _may_keep(result: Any) -> bool:
    return not isinstance(result, torch.Tensor) or (result.device.type == "cpu" and _is_small(result))


def _is_small(tensor: torch.Tensor) -> bool:
    has_integers = not (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
    return tensor.numel() <= (MOST_ELEMENTS if has_integers else MOST_FLOATS)


def _makes_a_small_tensor(function: Any, args: Any, kwargs: Any) -> bool:
    """Whether a factory makes a tensor that would be kept: tried on the meta device, where it takes no memory."""
    if "device" not in kwargs and not any(argument.name == "device" for argument in function._schema.arguments):
        return False
    with unset_fake_temporarily():
        try:
            made = function(*args, **{**kwargs, "device": torch.device("meta"), "pin_memory": None})
        except (NotImplementedError, RuntimeError, TypeError):
            return False
    return isinstance(made, torch.Tensor) and _is_small(made)
