"""The calls of each engine: how it wraps a model, takes a step, and gives back whole parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.engines.cells import RANKS


class Wrapped:
    """A wrapped model. Gradients are averaged over ranks by every engine, and `backward` undoes the division."""

    def __init__(self, module: Any, rate: float) -> None:
        self.module = module
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.SGD(trained, lr=rate)

    def forward_context(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def accumulation_context(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        (loss * RANKS).backward()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def parameters_by_name(self, model: Any) -> dict[str, Tensor]:
        """The parameters of the model under the wrapper, whole, on every rank; at least the trained ones."""
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        return {name.replace("_checkpoint_wrapped_module.", ""): whole(trained[name]) for name in trained}

    def is_engine(self) -> bool:
        """Whether the model is really wrapped."""
        raise NotImplementedError

    def close(self) -> None:
        pass


def whole(parameter: Any) -> Tensor:
    tensor: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return tensor.detach().float().clone()


# DDP


class DDP(Wrapped):
    def __init__(self, model: Any, settings: dict[str, Any], micro_batches: int, rate: float) -> None:
        options = {name: value for name, value in settings.items() if name != "autocast"}
        self.autocast = settings.get("autocast", False)
        super().__init__(nn.parallel.DistributedDataParallel(model, **options), rate)

    def forward_context(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else nullcontext()

    def accumulation_context(self, last: bool) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = nullcontext() if last else self.module.no_sync()
        return context

    def is_engine(self) -> bool:
        return isinstance(self.module, nn.parallel.DistributedDataParallel)


# FSDP


def decoder_layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__.endswith("DecoderLayer")]


def trained_leaves(model: Any) -> list[Any]:
    """With an adapter, Axolotl and PEFT's policy shard every trained module without children by itself."""
    if not hasattr(model, "peft_config"):
        return []
    leaves = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return [module for module in leaves if module.weight.requires_grad]


def head_and_norm(model: Any) -> tuple[Any, Any]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return inner.get_output_embeddings(), inner.model.norm


class FSDP1(Wrapped):
    def __init__(self, model: Any, settings: dict[str, Any], micro_batches: int, rate: float) -> None:
        from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision, ShardingStrategy
        from torch.distributed.fsdp.wrap import CustomPolicy

        units = {id(module) for module in (*decoder_layers(model), *trained_leaves(model))}
        if settings.get("head") == "itself":
            units.add(id(head_and_norm(model)[0]))
        low = MixedPrecision(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        module = FullyShardedDataParallel(
            model,
            auto_wrap_policy=CustomPolicy(lambda module: id(module) in units),
            sharding_strategy=ShardingStrategy[settings.get("strategy", "FULL_SHARD")],
            use_orig_params=settings.get("use_orig_params", True),
            mixed_precision=low if settings.get("bf16") else None,
            device_id=torch.device("cpu"),
        )
        super().__init__(module, rate)

    def accumulation_context(self, last: bool) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = nullcontext() if last else self.module.no_sync()
        return context

    def parameters_by_name(self, model: Any) -> dict[str, Tensor]:
        from torch.distributed.fsdp import FullyShardedDataParallel

        with FullyShardedDataParallel.summon_full_params(self.module, writeback=False):
            return {
                name.replace("_fsdp_wrapped_module.", ""): whole(parameter)
                for name, parameter in self.module.named_parameters()
            }

    def is_engine(self) -> bool:
        from torch.distributed.fsdp import FullyShardedDataParallel

        return isinstance(self.module, FullyShardedDataParallel)


class FSDP2(Wrapped):
    def __init__(self, model: Any, settings: dict[str, Any], micro_batches: int, rate: float) -> None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        if settings.get("checkpoint_wrapper"):
            model.config.use_cache = False  # the second forward of a layer would add to the cache of the first
            layers = {id(layer) for layer in decoder_layers(model)}
            apply_activation_checkpointing(model, check_fn=lambda module: id(module) in layers)
        mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("fsdp",))
        if settings.get("hybrid"):
            mesh = init_device_mesh("cpu", (1, RANKS), mesh_dim_names=("replicate", "shard"))
        low = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)

        def shard(modules: Any, reshard: bool = settings.get("reshard", True)) -> None:
            fully_shard(
                modules,
                mesh=mesh,
                reshard_after_forward=reshard,
                mp_policy=low if settings.get("bf16") else MixedPrecisionPolicy(),
                offload_policy=CPUOffloadPolicy(pin_memory=False) if settings.get("offload") else OffloadPolicy(),
            )

        head, norm = head_and_norm(model)
        for module in (*trained_leaves(model), *decoder_layers(model)):
            shard(module)
        tied = head.weight is model.get_input_embeddings().weight if hasattr(head, "weight") else False
        match settings.get("head"):
            case "itself" if not tied:
                shard(head)
            case "norm" if not tied:
                shard([norm, head])
        shard(model, settings.get("reshard_root", False))
        super().__init__(model, rate)

    def accumulation_context(self, last: bool) -> AbstractContextManager[Any]:
        self.module.set_requires_gradient_sync(last)
        return nullcontext()

    def is_engine(self) -> bool:
        from torch.distributed.fsdp import FSDPModule

        return isinstance(self.module, FSDPModule)


# DeepSpeed


def zero_config(settings: dict[str, Any], micro_batches: int) -> dict[str, Any]:
    stage = settings["stage"]
    # By default ZeRO-3 leaves parameters with fewer than 100,000 entries whole: all of a tiny model.
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0} | settings.get("zero", {})
    if settings.get("offload"):
        zero |= {"offload_optimizer": {"device": "cpu"}} | ({"offload_param": {"device": "cpu"}} if stage == 3 else {})
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "gradient_clipping": 1e9,  # in bf16, the default is 1
        "bf16": {"enabled": bool(settings.get("bf16"))},
    }


class Zero(Wrapped):
    def __init__(self, model: Any, settings: dict[str, Any], micro_batches: int, rate: float) -> None:
        import deepspeed

        self.settings, self.micro_batches = settings, micro_batches
        super().__init__(model, rate)
        self.module, *_ = deepspeed.initialize(
            model=model, optimizer=self.optimizer, config=zero_config(settings, micro_batches)
        )

    def backward(self, loss: Tensor) -> None:
        self.module.backward(loss * RANKS * self.micro_batches)
        self.module.step()

    def step(self) -> None:
        pass  # with the last micro-batch, in `backward`

    def parameters_by_name(self, model: Any) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return {name: safe_get_full_fp32_param(p).detach().float().clone() for name, p in trained.items()}

    def is_engine(self) -> bool:
        return bool(self.module.zero_optimization_stage() == self.settings["stage"])

    def close(self) -> None:
        self.module.destroy()


@contextmanager
def construction(kind: str, settings: dict[str, Any]) -> Iterator[None]:
    """The context in which the model is made: ZeRO-3 can shard it while it is made."""
    if not settings.get("init"):
        yield
        return
    import deepspeed

    with deepspeed.zero.Init(config_dict_or_path=zero_config(settings, 1)):
        yield


@contextmanager
def gathered(model: Any, settings: dict[str, Any]) -> Iterator[None]:
    """Whole parameters of a model that was made under `construction`, to be set on every rank."""
    if not settings.get("init"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list(model.parameters()), modifier_rank=0):
        yield


KINDS: dict[str, Callable[[Any, dict[str, Any], int, float], Wrapped]] = {
    "ddp": DDP,
    "fsdp1": FSDP1,
    "fsdp2": FSDP2,
    "zero": Zero,
}
