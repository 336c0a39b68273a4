"""Axolotl plugins that make features run on a CPU which Axolotl supports on GPUs only."""

import sys
from functools import partial
from types import ModuleType
from typing import Any

from axolotl.integrations.base import BasePlugin
from torch import distributed as dist
from transformers import PreTrainedModel, TrainerCallback
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from benchmarks.hosts import attention_over_ranks
from benchmarks.hosts.engines_on_cpu import patch_accelerate, shards
from benchmarks.hosts.liger_on_cpu import patch_liger


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
        print(f"step {state.global_step} trained a model sharded by {shards(model)}", flush=True)


class ContextParallelOnCPU(EnginesOnCPU):
    """Makes `context_parallel_size` run on CPUs: Axolotl cuts the batches itself, and only the attention is another.

    Axolotl needs Flash Attention and ring-flash-attn for it, which run on GPUs, and an average that gloo lacks.
    """

    def register(self, cfg: Any) -> None:
        super().register(cfg)
        sys.modules["ring_flash_attn"] = ModuleType("ring_flash_attn")  # Axolotl's validation imports it
        all_reduce = dist.all_reduce

        def average(tensor: Any, op: Any = dist.ReduceOp.SUM, **options: Any) -> None:
            all_reduce(tensor, op=dist.ReduceOp.SUM if op == dist.ReduceOp.AVG else op, **options)
            if op == dist.ReduceOp.AVG:
                tensor //= dist.get_world_size(options.get("group"))

        dist.all_reduce = average  # type: ignore[assignment] # it has the options that Axolotl passes

        adjust = PreTrainedModel._check_and_adjust_attn_implementation
        PreTrainedModel._check_and_adjust_attn_implementation = lambda self, _, **rest: adjust(self, "sdpa", **rest)
        ALL_ATTENTION_FUNCTIONS["sdpa"] = attention_over_ranks.attention

    def pre_model_load(self, cfg: Any) -> None:
        cfg.ring_attn_func = None  # after the validation of the recipe: Axolotl then leaves the attention as it is


class RayOnCPU(RanksOnCPU):
    """Makes `use_ray` start workers without GPUs, of which Axolotl gives one to each."""

    def register(self, cfg: Any) -> None:
        super().register(cfg)
        import ray.train

        ray.train.ScalingConfig = partial(_without_gpu, ray.train.ScalingConfig)


def _without_gpu(scaling_config: Any, **options: Any) -> Any:
    return scaling_config(**options | {"use_gpu": False})
