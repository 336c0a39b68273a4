"""Which ranks share the positions of a batch, and which train on positions of their own.

Draws are keyed by the data-parallel rank: ranks that train on different positions draw different tokens. With tensor
parallelism, the ranks of a group share the positions and have to draw the same tokens.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import nn


def data_parallel_rank(mesh: Any = None) -> int:
    """A number that ranks with the same positions share, and no others; 0 without torch.distributed.

    It is the first rank of the group of tensor parallelism, `mesh`; without one, the rank itself.
    """
    if mesh is not None:
        return int(mesh.mesh.min())
    return torch.distributed.get_rank() if in_group() else 0


def in_group() -> bool:
    """Whether torch.distributed is initialised."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_dtensor(tensor: Any) -> bool:
    """Whether the tensor is sharded over a device mesh, by FSDP2 or by tensor parallelism."""
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor.data, DTensor)


def tensor_parallel_mesh(model: nn.Module) -> Any:
    """The one-dimensional mesh over which parameters of the model are split by tensor parallelism; None without it.

    Raises ValueError for tensor parallelism that is not by DTensors: nothing tells there which ranks share a batch.
    """
    fully_sharded = any(_is_fully_sharded(module) for module in model.modules())
    for name, parameter in model.named_parameters():
        if getattr(parameter, "tensor_model_parallel", False):
            raise ValueError(
                f"otr: the parameter {name} of {type(model).__name__} is split by the tensor parallelism of DeepSpeed "
                "or Megatron, which OTR does not support: OTR supports that of transformers (tp_plan, "
                "DistributedConfig). Set autotp_size to 1; FSDP and ZeRO shard a model without it."
            )
        mesh = _mesh_of(parameter, fully_sharded) if is_dtensor(parameter) else None
        if mesh is not None:
            return mesh
    return None


def _mesh_of(parameter: Any, fully_sharded: bool) -> Any:
    """The mesh of tensor parallelism, from one parameter. FSDP2 puts its own dimensions before that dimension."""
    split = [dimension for dimension, one in enumerate(parameter.placements) if not one.is_replicate()]
    # FSDP2 shards a parameter over one dimension of the mesh, and replicates it over the others.
    if not split or (fully_sharded and len(split) == 1):
        return None
    mesh = parameter.device_mesh
    return mesh if mesh.ndim == 1 else mesh[mesh.mesh_dim_names[split[-1]]]


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
