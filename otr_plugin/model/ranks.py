"""Which rank of data parallelism this process is: draws are keyed by it.

Ranks that train on different positions draw different tokens. Ranks that share the positions of one batch, as in
tensor parallelism, would have to draw the same tokens. OTR does not support tensor parallelism yet, so a model that is
split in this way is refused, and every process has a data-parallel rank of its own.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn

from otr_plugin.model.projection import is_dtensor


def data_parallel_rank() -> int:
    """The rank in torch.distributed's default group; 0 without one."""
    return torch.distributed.get_rank() if in_group() else 0


def in_group() -> bool:
    """Whether torch.distributed is initialised."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def require_no_tensor_parallelism(model: nn.Module) -> None:
    """Raise ValueError if a parameter of the model is split by tensor parallelism."""
    fully_sharded = any(_is_fully_sharded(module) for module in model.modules())
    for name, parameter in model.named_parameters():
        if _is_split(parameter, fully_sharded):
            raise ValueError(
                f"otr: the parameter {name} of {type(model).__name__} is split by tensor parallelism, which OTR does "
                "not support: its ranks share the positions of a batch, and OTR would draw other tokens on each of "
                "them. Set the size of tensor parallelism to 1 (tp_size, tp_plan, tensor_parallel_size, autotp_size); "
                "FSDP and ZeRO shard a model without it."
            )


def _is_split(parameter: Any, fully_sharded: bool) -> bool:
    if getattr(parameter, "tensor_model_parallel", False):  # DeepSpeed's and Megatron's
        return True
    if not is_dtensor(parameter):
        return False
    # FSDP2 shards a parameter over one dimension of the mesh, and replicates it over the others.
    sharded_over = sum(not placement.is_replicate() for placement in parameter.placements)
    return not fully_sharded or sharded_over > 1


def _is_fully_sharded(module: nn.Module) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def refuse_data_parallel() -> NoReturn:
    """Takes the place of a method that nn.DataParallel calls to copy a module for each of its devices."""
    raise ValueError(
        "otr: nn.DataParallel copies the model to several GPUs within one process, which OTR does not support: the "
        "copies would share one step's state. Start one process for each GPU (torchrun, accelerate launch), or make "
        "one GPU visible (CUDA_VISIBLE_DEVICES)."
    )
