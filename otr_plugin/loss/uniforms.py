"""Random numbers for the draws of trained positions, made in blocks: those of other positions are not kept."""

from __future__ import annotations

import torch
from torch import Tensor

# The numbers made at one time. On a CPU the same numbers come in blocks of any size. On a GPU they depend on the size,
# so it must not depend on the memory that is free.
BLOCK_NUMBERS = 2**22


class Uniforms:
    """Rows of `torch.rand(positions, samples)`, for positions in ascending order."""

    def __init__(self, positions: int, samples: int, device: torch.device, generator: torch.Generator | None) -> None:
        self.positions, self.samples, self.device, self.generator = positions, samples, device, generator
        self.block_rows = max(1, BLOCK_NUMBERS // samples)
        self.index = -1  # of the block
        self.block = torch.empty(0, samples, device=device)

    def rows(self, positions: Tensor) -> Tensor:
        """The numbers [P, samples] of positions [P] on the CPU. Those of a later call come after those of this one."""
        parts = []
        blocks, counts = torch.unique_consecutive(positions // self.block_rows, return_counts=True)
        for index, part in zip(blocks.tolist(), positions.split(counts.tolist()), strict=True):
            self._make_until(index)
            all_rows = len(part) == len(self.block)
            inside = (part - index * self.block_rows).to(self.device, non_blocking=True)
            parts.append(self.block if all_rows else self.block[inside])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def finish(self) -> None:
        """Make the rest of the numbers, so that the generator is as after one call of torch.rand."""
        self._make_until((self.positions - 1) // self.block_rows)

    def _make_until(self, index: int) -> None:
        while self.index < index:
            self.index += 1
            rows = min(self.block_rows, self.positions - self.index * self.block_rows)
            del self.block  # so that its memory can be used for the next one
            self.block = torch.rand(rows, self.samples, device=self.device, generator=self.generator)
