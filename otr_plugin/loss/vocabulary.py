"""Which tokens' logits a process has: all (Vocabulary), or a slice of the vocabulary (VocabularySlice).

With tensor parallelism, every process of a group holds the head's rows, and so the logits, of one slice of the
vocabulary. torch_kernel.py computes a row's sums, its largest logit and its draws from the logits that are here, and
combines them by the methods below. No logits leave a process, and no weights do: what is exchanged are a few numbers
for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Place(NamedTuple):
    """Columns of this process's logits, [R, n]; where `is_here` is False, the token is in another slice."""

    column: Tensor
    is_here: Tensor | None  # None: all of them are here

    def of(self, x: Tensor) -> Tensor:
        """The values of x [R, columns] at these places; 0 for a token in another slice."""
        return self.keep(x.gather(1, self.column))

    def keep(self, values: Tensor) -> Tensor:
        """The values of tokens that are here, and 0 for the others."""
        return values if self.is_here is None else values.where(self.is_here, 0)


class Vocabulary:
    """All tokens are here, so what is computed from the logits of this process is the result."""

    group: Any = None

    def size(self, columns: int) -> int:
        """The number of tokens in all, if the logits here have so many columns."""
        return columns

    def columns(self, columns: int) -> int:
        """The number of columns that a row of logits needs in memory."""
        return columns

    def place(self, tokens: Tensor, columns: int) -> Place:
        return Place(tokens, None)

    def sum(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The sums over the vocabulary of values [R, 1], from the sums over the tokens that are here."""
        return parts

    def largest(self, values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """The largest logit of each row [R, 1] and its token, from those among the tokens that are here."""
        return values, columns

    def most_probable(self, x: Tensor) -> Tensor:
        """The n largest logits of each row, in descending order, from the n largest [R, n] of those that are here."""
        return x

    def smallest(self, values: Tensor) -> Tensor:
        return values

    def intervals(self, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The interval [R, 1] of the slice in the running sum over all tokens, and the end of that sum."""
        return torch.zeros_like(mass), mass, mass

    def softmax(self, x: Tensor, out: Tensor) -> Tensor:
        """exp(x) up to a factor that is the same for the whole row. The row's largest x is 0."""
        # Not torch.softmax: ms-swift's optimiser muonclip replaces it to see the attention's logits.
        result: Tensor = torch.ops.aten.softmax.int_out(x, -1, out=out)
        return result

    def probabilities(self, x: Tensor) -> Tensor:
        """softmax(x) of the tokens that are here."""
        return x.softmax(-1)

    def softmax_of_largest(self, p: Tensor, token: Tensor) -> Tensor:
        """What `softmax` gives for the row's largest x, which is that of `token` [R, 1]."""
        return p.gather(1, token)

    def agree(self, number: int) -> int:
        """The smallest of a number over the group."""
        return number

    def add_up(self, gradient: Tensor | None) -> None:
        """Add up, in place, the gradients of an input that every process of the group has whole."""


WHOLE = Vocabulary()


@dataclass(frozen=True)
class VocabularySlice(Vocabulary):
    """The tokens from `start` on are here, as many as the weight has rows; the group's other processes have the others.

    The slices of the group's processes are in the order of their ranks and have no gaps. All processes of the group
    have the same hidden states, labels, settings and uniforms, and call the loss at the same time.
    """

    start: int
    total: int
    group: Any  # torch.distributed.ProcessGroup

    def size(self, columns: int) -> int:
        return self.total

    def columns(self, columns: int) -> int:
        return columns + 1  # the last column stands for the tokens of other slices

    def place(self, tokens: Tensor, columns: int) -> Place:
        column = tokens - self.start
        is_here = (column >= 0) & (column < columns)
        return Place(column.where(is_here, columns), is_here)

    def sum(self, *parts: Tensor) -> tuple[Tensor, ...]:
        # Gathered and added up in the order of the ranks: the same bits in every process, and NaN stays NaN.
        return tuple(self._gather(torch.cat(parts, 1)).sum(0).split([part.shape[1] for part in parts], 1))

    def largest(self, values: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        pairs = self._gather(torch.cat([values.double(), (columns + self.start).double()], 1))
        largest, rank = pairs[..., :1].max(0, keepdim=True)  # the first one, among equal values
        token = pairs[..., 1:].gather(0, rank)[0]
        return largest[0].to(values.dtype), token.long()

    def most_probable(self, x: Tensor) -> Tensor:
        return self._gather(x).movedim(0, 1).flatten(1).topk(x.shape[1]).values

    def smallest(self, values: Tensor) -> Tensor:
        return self._gather(values).amin(0)

    def intervals(self, mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ends = self._gather(mass).cumsum(0)
        rank = dist.get_rank(self.group)
        return (ends[rank - 1] if rank else torch.zeros_like(mass)), ends[rank], ends[-1]

    def softmax(self, x: Tensor, out: Tensor) -> Tensor:
        return torch.exp(x, out=out)

    def probabilities(self, x: Tensor) -> Tensor:
        p = torch.exp(x + self.smallest(-x.amax(-1, keepdim=True)))
        (total,) = self.sum(p.sum(-1, keepdim=True))
        return p / total

    def softmax_of_largest(self, p: Tensor, token: Tensor) -> Tensor:
        return torch.ones_like(p[:, :1])

    def agree(self, number: int) -> int:
        return int(self._gather(torch.tensor([number], device=self._device())).amin())

    def add_up(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            dist.all_reduce(gradient, group=self.group)

    def _gather(self, values: Tensor) -> Tensor:
        """The values of all processes of the group, in the order of their ranks."""
        gathered = [torch.empty_like(values) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(gathered, values.contiguous(), group=self.group)
        return torch.stack(gathered)

    def _device(self) -> torch.device:
        backend = dist.get_backend(self.group)
        return torch.device("cpu" if backend == "gloo" else torch.accelerator.current_accelerator() or "cpu")
