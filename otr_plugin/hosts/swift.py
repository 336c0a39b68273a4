"""ms-swift: `loss_type: otr`, with settings as `OTR_SAMPLES` and its like under `ENV:`. Run with the versions in TRIED.

Swift hands a registered loss the logits, which OTR never holds. So ours is there when the trainer is made, and then
takes itself out: labels stay in the batch, the attached model answers with its loss, and what swift does to the loss
of plain SFT (accumulation, ranks) it does to this one.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from swift.callbacks import TrainerCallback, callbacks_map
from swift.loss import BaseLoss, loss_map
from swift.loss_scale import get_loss_scale
from swift.metrics import MeanMetric
from swift.template import Template
from swift.utils import get_logger

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.common import refuse, said_elsewhere, untried
from otr_plugin.hosts.trainer import join

TRIED = ("4.6.0",)
NAME, JOINS = "otr", "otr_joins"  # a loss_type, and what it adds to the trainer's callbacks
# Keys with which swift would compute the loss elsewhere, and what to do about each.
LOSS_ELSEWHERE = {
    "rlhf_type": "run `swift sft`; preference and RL trainers have losses of their own",
    "enable_dft_loss": "set it to false; `OTR_OBJECTIVE: dft` is that loss, without whole logits",
    "enable_channel_loss": "set it to false: it takes every token's loss from the logits",
    "label_smoothing_factor": "set it to 0: the trainer would compute the loss",
}
IN_MEGATRON = "otr: Megatron's trainer computes the loss, and OTR would not be trained: run `swift sft`."


def register(factory_module: Any = None) -> None:
    """Add OTR to swift: called by otr_plugin.autoload with swift.trainers.trainer_factory, or by a plugin file."""
    if factory_module is None:
        if "swift.megatron" in sys.modules:
            raise ValueError(IN_MEGATRON)
        factory_module = import_module("swift.trainers.trainer_factory")
    factory: Any = getattr(factory_module, "TrainerFactory", None)
    own = getattr(factory, "get_training_args", None)
    if own is None:
        raise RuntimeError(
            "otr: looked for TrainerFactory.get_training_args in swift.trainers.trainer_factory, and did not find it "
            f"as it was in ms-swift {', '.join(TRIED)}; this is {version('ms-swift')}. Nothing is trained."
        )
    if hasattr(own, NAME):
        return

    @functools.wraps(own)
    def get_training_args(args: Any) -> Any:
        check(args)  # every argument is final here, and no weight is loaded yet
        return own(args)

    setattr(get_training_args, NAME, True)
    factory.get_training_args = staticmethod(get_training_args)
    loss_map[NAME], callbacks_map[JOINS] = OTRLoss, Joins


def refuse_megatron(arguments_module: Any) -> None:
    """swift.megatron.arguments.sft_args: `megatron sft` takes any loss_type, and for a causal LM looks none up."""
    own = arguments_module.MegatronSftArguments.__post_init__

    @functools.wraps(own)
    def post_init(self: Any) -> None:
        if asks(self) or variables():
            raise ValueError(IN_MEGATRON)
        own(self)

    arguments_module.MegatronSftArguments.__post_init__ = post_init


def asks(args: Any) -> bool:
    return NAME in ([args.loss_type] if isinstance(args.loss_type, str) else args.loss_type or [])


def variables() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k.upper().split("_")[0] == "OTR" and k != "OTR_PLUGIN_AUTOLOAD"}


def key_of(name: str) -> str:
    return name.upper().removeprefix("OTR_").lower()


def settings() -> OTRConfig:
    """Swift makes text of what ENV holds: OTRConfig reads numbers from it, and None is what became of null."""
    given = {key_of(name): value for name, value in variables().items()}
    try:
        return OTRConfig(**{key: None if value in ("None", "null", "") else value for key, value in given.items()})
    except ValueError as error:
        raise ValueError(
            f"otr: a setting is a variable under `ENV:`, or of the shell: OTR_ and its key in capitals. {error}"
        ) from None


def check(args: Any) -> None:
    """What a recipe says, before any work."""
    if not asks(args):
        if stray := [name for name in sorted(variables()) if key_of(name) in OTRConfig.model_fields]:
            raise ValueError(
                f"otr: {', '.join(stray)} under `ENV:` or in the shell, but `loss_type: {args.loss_type}`: it would "
                "train without OTR. Add `loss_type: otr`, or remove the setting."
            )
        return
    problems = said_elsewhere(vars(args), LOSS_ELSEWHERE)
    weighs = args.is_binary_loss_scale is None and not get_loss_scale(args.loss_scale).is_binary_loss_scale
    for key, wrong, fix in (
        ("task_type", args.task_type != "causal_lm", "set it to causal_lm: the others have losses of their own"),
        ("tuner_backend", args.tuner_backend == "unsloth", "set it to peft: Unsloth computes the loss past the head"),
        ("sequence_parallel_size", args.sequence_parallel_size > 1, "set it to 1: its loss is made from logits"),
        ("loss_scale", weighs, "choose one of zeros and ones, as default and last_round are: OTR has no weights"),
        ("is_binary_loss_scale", args.is_binary_loss_scale is False, "remove it: OTR has no weights"),
    ):
        if wrong:
            problems.append(f"`{key}: {getattr(args, key)}`: {fix}")
    refuse(problems, "`loss_type: otr`")
    settings()


class OTRLoss(BaseLoss):
    """What `loss_type: otr` names. Swift makes it before the trainer has its model: joining is left to a callback."""

    def __init__(self, args: Any, trainer: Any) -> None:
        super().__init__(args, trainer)
        if args.use_liger_kernel:  # every kernel of Liger's but its losses
            losses = {"fused_linear_cross_entropy": False, "cross_entropy": False}
            args.liger_kernel_config = {**(args.liger_kernel_config or {}), **losses}
        args.callbacks = [*args.callbacks, JOINS]

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "otr: looked for on_init_end to be called on the trainer's callbacks, where OTR goes into the model, as in "
            f"ms-swift {', '.join(TRIED)}; it was not, in {version('ms-swift')}. Nothing is trained."
        )


class Joins(TrainerCallback):
    """At the end of the trainer's __init__: the model is there, and nothing has been trained."""

    def on_init_end(self, *_: Any, **__: Any) -> None:
        trainer, template, log = self.trainer, self.trainer.template, get_logger()
        if type(template).compute_sft_loss is not Template.compute_sft_loss:
            raise ValueError(f"otr: {type(template).__name__} has a loss of its own, and OTR would not be trained.")
        trainer.compute_loss_func = None  # labels then go to the model
        if warning := untried("ms-swift", TRIED):
            log.warning(warning)
        handle = join(trainer, settings())
        handle.transform_output = self.transform_output
        if trainer.args.acc_strategy == "token":
            for metrics in trainer.custom_metrics.values():
                metrics["token_acc"] = TokenAccuracy(nan_value=None, device=trainer.args.device)
        log.info(handle.describe())

    def transform_output(self, call: Any, output: Any) -> Any:
        """Swift takes its accuracy from logits, of which there is a placeholder: OTR has counted already."""
        metric = self.trainer.custom_metrics["train" if self.trainer.model.training else "eval"].get("token_acc")
        if isinstance(metric, TokenAccuracy):
            metric.state, metric.count = metric.state + call.sums["accuracy"], metric.count + call.sums["tokens"]
        return dataclasses.replace(output, logits=None)


class TokenAccuracy(MeanMetric):
    """Counts stay on the device until they are logged."""

    state: Any
    count: Any

    def compute(self) -> Any:
        self.state, self.count = float(self.state), int(self.count)
        return super().compute()
