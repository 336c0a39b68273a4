"""How many positions' logits exist at a time, and the memory that holds them.

Few, large chunks: each one reads the whole weight again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 384 * 2**20  # on a CPU
CHUNK_BYTES_GPU = 2**30
SHARE_OF_FREE = 4  # a chunk takes at most a fourth of the device's free memory


def chunk_size(count: int, bytes_a_row: int, chunk_tokens: int | str, budget: int) -> int:
    """Positions a chunk. auto: what fits the budget, shared evenly over as few chunks as that takes."""
    if isinstance(chunk_tokens, int):
        return chunk_tokens
    most = max(1, budget // bytes_a_row)
    chunks = max(1, math.ceil(count / most))
    return max(1, math.ceil(count / chunks))


def budget(device: torch.device) -> int:
    """How many bytes of logits to have at a time on this device."""
    free = _free(device)
    return CHUNK_BYTES if free is None else min(CHUNK_BYTES_GPU, free // SHARE_OF_FREE)


def _free(device: torch.device) -> int | None:
    """What PyTorch may still take of a GPU's memory. Asks the driver; does not wait for the device's work."""
    if device.type == "cpu":
        return None
    module: Any = torch.get_device_module(device)
    if not hasattr(module, "mem_get_info"):
        return None
    free, total = module.mem_get_info(device)
    reserved, allocated = module.memory_reserved(device), module.memory_allocated(device)
    if hasattr(module, "get_per_process_memory_fraction"):  # where a limit was set, that counts
        free = min(free, int(module.get_per_process_memory_fraction(device) * total) - reserved)
    return max(0, int(free + reserved - allocated))


def buffer(like: Tensor, rows: int, width: int, dtype: torch.dtype, room: int) -> Tensor:
    """Memory for up to `rows` rows of logits: half as many, and so on, where there is not enough.

    `room` is how many bytes a row have to be left beside it, for what else a chunk needs for a while.
    """
    while True:
        try:
            memory = like.new_empty(rows, width, dtype=dtype)
            like.new_empty(rows * room, dtype=torch.uint8)  # and forgotten: it only had to fit
            return memory
        except torch.OutOfMemoryError:
            if rows <= 1:
                raise
        rows = math.ceil(rows / 2)
