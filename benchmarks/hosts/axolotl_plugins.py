"""Axolotl plugins that make features run on a CPU which Axolotl supports on GPUs only."""

from typing import Any

from axolotl.integrations.base import BasePlugin
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback

from benchmarks.hosts.engines_on_cpu import patch_accelerate
from benchmarks.hosts.liger_on_cpu import patch_liger
from otr_plugin.model.ranks import is_dtensor


class LigerOnCPU(BasePlugin):
    """Makes Liger's kernels run in Triton's interpreter."""

    def register(self, cfg: Any) -> None:
        patch_liger()


class RanksOnCPU(BasePlugin):
    """Loads every rank's model on the CPU; Axolotl would assign a GPU to each rank."""

    def register(self, cfg: Any) -> None:
        from axolotl.loaders.model import ModelLoader

        original = ModelLoader._set_device_map_config

        def set_device_map(self: Any) -> None:
            original(self)
            self.model_kwargs["device_map"] = "cpu"

        ModelLoader._set_device_map_config = set_device_map


class EnginesOnCPU(BasePlugin):
    """Makes FSDP and DeepSpeed run on CPUs, and prints which engine has sharded the model."""

    def register(self, cfg: Any) -> None:
        patch_accelerate()
        RanksOnCPU().register(cfg)

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [PrintEngine()]


class PrintEngine(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        parameters = list(model.parameters())
        if isinstance(model, FSDPModule) and all(is_dtensor(parameter) for parameter in parameters):
            print(f"step {state.global_step} trained a model sharded by FSDP2", flush=True)
        # DeepSpeed gives a parameter that it has sharded a status, and empties it.
        if all(hasattr(parameter, "ds_status") and parameter.numel() == 0 for parameter in parameters):
            print(f"step {state.global_step} trained a model sharded by ZeRO-3", flush=True)
