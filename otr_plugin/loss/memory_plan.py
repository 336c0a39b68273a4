"""How many positions form a chunk, and the buffer that holds the logits of one chunk.

chunked.LinearLoss calls these functions once in every forward. A chunk should be as large as memory permits, because
the matrix product of every chunk reads the head's whole weight again.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from otr_plugin.loss.tuned import architecture, settings_of

CHUNK_BYTES = 384 * 2**20  # the budget on a CPU
CPU_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "DefaultCPUAllocator")  # in PyTorch's messages
SHARE_OF_FREE = 4  # the budget on a GPU is at most the free memory divided by this


def chunk_size(count: int, bytes_per_row: int, chunk_tokens: int | str, budget: int) -> int:
    """The number of positions in a chunk, for `count` positions whose logits take `bytes_per_row` each.

    This is `chunk_tokens`, if it is a number. For "auto", positions are distributed evenly over the smallest number
    of chunks that each fit `budget` bytes (or hold one position, if not even that fits).
    """
    if isinstance(chunk_tokens, int):
        return chunk_tokens
    largest = max(1, budget // bytes_per_row)
    chunks = max(1, math.ceil(count / largest))
    return max(1, math.ceil(count / chunks))


def budget(device: torch.device) -> int:
    """The number of bytes that the logits of one chunk may take on this device."""
    free = _free_memory(device)
    return CHUNK_BYTES if free is None else budget_of(free, architecture(device))


def budget_of(free: int, architecture: str) -> int:
    """The same, for a GPU of this architecture on which PyTorch can still allocate so many bytes."""
    return min(settings_of(architecture).chunk_bytes, free // SHARE_OF_FREE)


def _free_memory(device: torch.device) -> int | None:
    """The bytes that PyTorch can still allocate on a GPU; None for a CPU, or if the device does not report them.

    This queries the driver and does not wait for kernels that are running.
    """
    if device.type == "cpu":
        return None
    module: Any = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    free, total = module.mem_get_info(device)
    reserved, allocated = module.memory_reserved(device), module.memory_allocated(device)
    # A limit set by torch.cuda.set_per_process_memory_fraction can be reached before the GPU's memory is full.
    if hasattr(module, "get_per_process_memory_fraction"):
        free = min(free, int(module.get_per_process_memory_fraction(device) * total) - reserved)
    return max(0, int(free + reserved - allocated))


def buffer(like: Tensor, rows: int, width: int, dtype: torch.dtype, temporary_bytes: int) -> Tensor:
    """Allocate [rows, width] for logits, on like's device; with fewer rows (halved repeatedly) if memory is short.

    `temporary_bytes` is the number of bytes per row to keep free for temporaries. Warns once if memory is short.
    """
    wanted = rows
    while True:
        try:
            memory = like.new_empty(rows, width, dtype=dtype)
            # Freed at once: this allocation only shows that the temporaries will fit beside the logits.
            like.new_empty(rows * temporary_bytes, dtype=torch.uint8)
        except RuntimeError as error:
            if rows <= 1 or not _is_out_of_memory(error):
                raise
        else:
            if rows < wanted:
                _warn_once(like.device)
            return memory
        rows = math.ceil(rows / 2)


@contextmanager
def advice() -> Iterator[None]:
    """Add what to do to the message of an out-of-memory error that is raised in the block.

    The error stays the same object with one argument, which begins as before: accelerate recognises it by that and
    tries again with a smaller batch, where a host has switched this on.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_out_of_memory(error):
            what_to_do = (
                "otr: out of memory in the loss, which holds the logits of one chunk, a gradient of the hidden states "
                "and, for a trained head, a float32 gradient of its weight. Make the batch or its sequences shorter, "
                "train the head by LoRA or freeze it, or set chunk_tokens to a smaller number."
            )
            error.args = (f"{error}\n{what_to_do}",)
        raise


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocation failed. On a CPU, PyTorch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in CPU_OUT_OF_MEMORY)


@functools.cache
def _warn_once(device: torch.device) -> None:
    warnings.warn(
        f"otr: memory is short on {device}: the loss computes fewer positions at a time than planned, with the same "
        "result, but slower. A smaller batch leaves more memory; a smaller chunk_tokens plans for less.",
        RuntimeWarning,
        stacklevel=2,
    )
