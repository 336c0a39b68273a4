"""Counts the memory that tensors take, storage by storage: by part, over time, and at the peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

# The parts of which memory is counted, in the order of the pictures.
WEIGHTS, ADAPTERS, OPTIMISER, GRADIENTS, ACTIVATIONS, LOGITS = PARTS = (
    "weights",
    "adapters",
    "optimiser",
    "gradients",
    "activations",
    "logits",
)
FORWARD, BACKWARD, UPDATE = PHASES = ("forward", "backward", "update")
READS_THE_DEVICE = torch.ops.prim.device.default
GRANULE = 512  # bytes; the CUDA caching allocator hands out multiples of them


@dataclass(frozen=True)
class Moment:
    """The memory in use between two operations, in bytes by part."""

    phase: str
    parts: tuple[int, ...]  # in the order of PARTS
    total: int


@dataclass
class _Storage:
    size: int
    part: str
    keeps_alive: Any  # the weak reference to the storage


@dataclass
class Record:
    """What a ledger has counted since `start`."""

    moments: list[Moment] = field(default_factory=list)

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)


class Ledger(TorchDispatchMode):
    """Counts the storages that operations make while the mode is on, until they are freed.

    Fake tensors have storages of the size of real ones, without memory behind them. `part_of` gives the part of a new
    storage, from the tensor that an operation returned and the phase. `workspace` gives the bytes that an operation
    takes on a card while it runs, beside what it returns.
    """

    def __init__(
        self,
        part_of: Callable[[torch.Tensor, str], str],
        workspace: Callable[[Any, Any, Any], int] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of torch
        self.part_of, self.workspace = part_of, workspace
        self.phase = FORWARD
        self.now: Counter[str] = Counter()
        self.record: Record | None = None
        self._storages: dict[int, _Storage] = {}

    @property
    def total(self) -> int:
        return sum(self.now.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (
            function is READS_THE_DEVICE
        ):  # more often than anything else; the tensor has it, and no other mode is needed
            return type(args[0]).__torch_dispatch__(function, types, args)
        result = function(*args, **(kwargs or {}))
        if function.namespace == "prim":  # reads a tensor's device or shape
            return result
        grown = False
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                grown |= self._count(tensor)
        transient = 0 if self.workspace is None else self.workspace(function, args, result)
        if grown or transient:
            self._note(transient)
        return result

    def start(self) -> Record:
        """Begin to write down the memory in use."""
        self.record = Record()
        self._note(0)
        return self.record

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def move(self, tensor: torch.Tensor, part: str) -> None:
        """Count a tensor's storage as this part from now on."""
        held = self._storages.get(tensor.untyped_storage()._cdata)
        if held is not None and held.part != part:
            self.now[held.part] -= held.size
            self.now[part] += held.size
            held.part = part

    def move_all(self, part: str, *, of: str) -> None:
        """Count all storages of one part as another from now on."""
        for held in self._storages.values():
            if held.part == of:
                held.part = part
        self.now[part] += self.now.pop(of, 0)

    def _count(self, tensor: torch.Tensor) -> bool:
        if tensor.device.type == "meta" or not _has_storage(tensor):
            return False
        storage = tensor.untyped_storage()
        key = storage._cdata
        size = -(-storage.nbytes() // GRANULE) * GRANULE
        if not size or key in self._storages:
            return False
        part = self.part_of(tensor, self.phase)
        self._storages[key] = _Storage(size, part, weakref.ref(storage, lambda _: self._drop(key)))
        self.now[part] += size
        return True

    def _drop(self, key: int) -> None:
        held = self._storages.pop(key, None)
        if held is not None:
            self.now[held.part] -= held.size

    def _note(self, transient: int) -> None:
        if self.record is not None:
            parts = dict(self.now)
            parts[ACTIVATIONS] = parts.get(ACTIVATIONS, 0) + transient
            counted = tuple(parts.get(part, 0) for part in PARTS)
            self.record.moments.append(Moment(self.phase, counted, sum(counted)))


def _has_storage(tensor: torch.Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return False
    return True
