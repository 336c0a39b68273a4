"""Makes accelerate use FSDP and DeepSpeed on CPUs, with gloo.

Accelerate starts FSDP and DeepSpeed only for ranks that have an accelerator each; on CPUs, it leaves both out without
a word and trains with DDP. Only the way to an engine changes here, not the engine.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

# The variables with which `accelerate launch` passes on the settings of an accelerate YAML.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
ZERO3: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,  # otherwise a tiny model stays whole
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


def import_deepspeed() -> bool:
    """Import DeepSpeed for CPUs, if it is installed, with the operator that it compiles at its first use.

    That takes some minutes on a busy machine. A process that is killed while it compiles leaves a lock, for which all
    later ones wait without an end.
    """
    if not importlib.util.find_spec("deepspeed"):
        return False
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.comm.torch import build_shm_op

    build_shm_op()
    return True


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
