"""The table: engines with their settings, kinds of heads, and cases. A cell is one of each.

Everything is declared here; training.py runs a cell, and engines.py has the engines' own calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BF16 = "bf16"
RANKS = 2


@dataclass(frozen=True)
class Engine:
    """A row of the table. `kind` names a function of engines.py, which gets the settings."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"  # in which the engine computes


# Communication beside computation, of less than one layer at a time, and no parameter stays gathered.
SMALL_BUCKETS = {
    "overlap_comm": True,
    "contiguous_gradients": True,
    "reduce_bucket_size": 500,
    "sub_group_size": 1000,
    "stage3_prefetch_bucket_size": 0,
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
}

# What two ranks do with one model. "head" is how FSDP groups the head: with the root, by itself, or with the last norm.
ENGINES: dict[str, Engine] = {
    "DDP": Engine("ddp"),
    "DDP, `find_unused_parameters`": Engine("ddp", {"find_unused_parameters": True}),
    "DDP, `static_graph`": Engine("ddp", {"static_graph": True}),
    "DDP, `gradient_as_bucket_view`": Engine("ddp", {"gradient_as_bucket_view": True}),
    "DDP, bf16 by autocast": Engine("ddp", {"autocast": True}, BF16),
    "FSDP1": Engine("fsdp1"),
    "FSDP1, `use_orig_params=False`": Engine("fsdp1", {"use_orig_params": False}),
    "FSDP1, `SHARD_GRAD_OP`": Engine("fsdp1", {"strategy": "SHARD_GRAD_OP"}),
    "FSDP1, head by itself": Engine("fsdp1", {"head": "itself"}),
    "FSDP1, head by itself, `use_orig_params=False`": Engine("fsdp1", {"head": "itself", "use_orig_params": False}),
    "FSDP1, bf16": Engine("fsdp1", {"bf16": True}, BF16),
    "FSDP2": Engine("fsdp2"),
    "FSDP2, not resharded": Engine("fsdp2", {"reshard": False}),
    "FSDP2, head by itself": Engine("fsdp2", {"head": "itself"}),
    "FSDP2, head with the norm": Engine("fsdp2", {"head": "norm"}),
    "FSDP2, all groups resharded": Engine("fsdp2", {"head": "norm", "reshard_root": True}),
    "FSDP2, layers in PyTorch's `checkpoint_wrapper`": Engine("fsdp2", {"head": "norm", "checkpoint_wrapper": True}),
    "FSDP2, bf16": Engine("fsdp2", {"bf16": True}, BF16),
    "FSDP2, head by itself, bf16": Engine("fsdp2", {"head": "itself", "bf16": True}, BF16),
    "FSDP2, CPU offload": Engine("fsdp2", {"head": "norm", "offload": True}),
    "FSDP2, replicated and sharded": Engine("fsdp2", {"hybrid": True}),
    "ZeRO-1": Engine("zero", {"stage": 1}),
    "ZeRO-2": Engine("zero", {"stage": 2}),
    "ZeRO-2, bf16": Engine("zero", {"stage": 2, "bf16": True}, BF16),
    "ZeRO-2, CPU offload": Engine("zero", {"stage": 2, "offload": True}),
    "ZeRO-3": Engine("zero", {"stage": 3}),
    "ZeRO-3, small buckets": Engine("zero", {"stage": 3, "zero": SMALL_BUCKETS}),
    "ZeRO-3, `zero.Init`": Engine("zero", {"stage": 3, "init": True}),
    "ZeRO-3, bf16": Engine("zero", {"stage": 3, "bf16": True}, BF16),
    "ZeRO-3, CPU offload": Engine("zero", {"stage": 3, "offload": True}),
}

FROZEN, TRAINED, TIED, LORA, SAVED = "frozen", "trained", "tied", "LoRA", "modules_to_save"
HEADS = (FROZEN, TRAINED, TIED, LORA, SAVED)


@dataclass(frozen=True)
class Case:
    """What a cell trains on, and how. In every case, ranks have different numbers of trained tokens."""

    model: str = "llama"
    masked_rank: bool = False  # the second rank has no trained token
    micro_batches: int = 1
    checkpointing: bool = False
    wrapped_first: bool = False  # attach() comes after the engine has wrapped the model
    evaluates: bool = False  # between the two steps


CASES: dict[str, Case] = {
    "uneven tokens": Case(),
    "a rank without tokens": Case(masked_rank=True),
    "accumulation": Case(micro_batches=2),
    "experts": Case(model="mixtral"),
    "softcap": Case(model="gemma2"),
    "evaluation": Case(evaluates=True),
    "attached after wrapping": Case(wrapped_first=True),
    "everything": Case(
        model="mixtral", masked_rank=True, micro_batches=2, checkpointing=True, wrapped_first=True, evaluates=True
    ),
}


@dataclass(frozen=True)
class Cell:
    """`plain`: without OTR, by the model's own loss, to tell what the engine itself does."""

    engine: str
    head: str
    case: str
    plain: bool = False

    @property
    def name(self) -> str:
        return " | ".join((self.engine, self.head, self.case))


def cells() -> Iterator[Cell]:
    return (Cell(*names) for names in itertools.product(ENGINES, HEADS, CASES))
