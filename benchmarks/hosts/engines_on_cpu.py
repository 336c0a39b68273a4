"""Makes accelerate use FSDP and DeepSpeed on CPUs, with gloo.

Accelerate starts FSDP and DeepSpeed only for ranks that have an accelerator each; on CPUs, it leaves both out without
a word and trains with DDP. Only the way to an engine changes here, not the engine.
"""

from __future__ import annotations

import os
from typing import Any


def patch_accelerate() -> None:
    """Ranks count as ranks with a GPU, whose device is the CPU. Call this before accelerate's state is made."""
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ["ACCELERATE_TORCH_DEVICE"] = os.environ["DS_ACCELERATOR"] = "cpu"

    def prepare_backend(self: Any, *_: Any, **__: Any) -> tuple[str, DistributedType]:
        return "gloo", DistributedType.MULTI_GPU

    build_device_mesh = ParallelismConfig.build_device_mesh
    PartialState._prepare_backend = prepare_backend
    ParallelismConfig.build_device_mesh = lambda self, device_type: build_device_mesh(self, "cpu")


def shards(model: Any) -> str:
    """What has sharded all parameters of a model between two of its forwards: FSDP2, ZeRO-3, or nothing."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    parameters = list(model.parameters())
    if isinstance(model, FSDPModule) and all(isinstance(parameter.data, DTensor) for parameter in parameters):
        return "FSDP2"
    # DeepSpeed gives a parameter that it has sharded a status, and empties it.
    if all(hasattr(parameter, "ds_status") and parameter.numel() == 0 for parameter in parameters):
        return "ZeRO-3"
    return "nothing"
