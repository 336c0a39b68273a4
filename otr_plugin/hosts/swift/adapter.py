"""ms-swift: `loss_type: otr`, with settings as variables such as `OTR_SAMPLES` under `ENV:` or in the shell.

Swift gives a registered loss whole logits, which OTR never holds. The loss registered here is therefore a placeholder:
it registers a callback, which attaches OTR to the trainer's model and removes the placeholder. Labels then stay in the
batch, the attached model computes the loss, and swift treats it (accumulation, ranks) like the loss of plain SFT. The
weights of `loss_scale` go to the model with the labels.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

from swift.callbacks import TrainerCallback, callbacks_map
from swift.loss import BaseLoss, loss_map
from swift.metrics import MeanMetric
from swift.template import Template
from swift.utils import get_logger

from otr_plugin.hosts.patching import is_marked, marked, replace, trace
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.recipes import conflicts, refuse_conflicts, untried_version
from otr_plugin.hosts.resume import resumed_without_otr
from otr_plugin.hosts.run_record import remember
from otr_plugin.hosts.swift.recipe import (
    CONFIG_FILE,
    IN_MEGATRON,
    LOSS_TYPE,
    OTHER_LOSSES,
    TRIED,
    other_losses,
    read_recipe,
    resolved_recipe,
    set_in_the_shell,
    settings,
)
from otr_plugin.hosts.transformers.adapter import Log, attach_and_announce, require_kernel
from otr_plugin.metrics import TOKEN_COUNT
from otr_plugin.model.handle import TOKEN_WEIGHTS, Handle

ATTACH = "otr_attach"  # the name of AttachCallback among swift's callbacks
LOSS_SCALE = "loss_scale"  # the weights of labels in swift's batches


def add_loss_type() -> None:
    """For a file under `external_plugins`, which works also where the autoload is switched off."""
    if "swift.megatron" in sys.modules:
        raise ValueError(IN_MEGATRON)
    patch_trainer_factory(import_module("swift.trainers.trainer_factory"))


def patch_trainer_factory(factory_module: ModuleType) -> None:
    """swift.trainers.trainer_factory"""
    factory: Any = getattr(factory_module, "TrainerFactory", None)
    original = getattr(factory, "get_training_args", None)
    if original is None:
        raise RuntimeError(
            "otr: looked for TrainerFactory.get_training_args in swift.trainers.trainer_factory, but did not find it "
            f"as in ms-swift {', '.join(TRIED)}; {version('ms-swift')} is installed. Nothing is trained."
        )
    if is_marked(original):
        return

    @functools.wraps(original)
    def get_training_args(args: Any) -> Any:
        trains_with_otr = check(args)  # here every argument is final, and no weight is loaded yet
        warning = resumed_without_otr(args.resume_from_checkpoint, args.output_dir)
        if warning and not trains_with_otr:
            get_logger().warning(warning)
        return original(args)

    why = "checks recipes with OTR before any weight is loaded"
    replace(factory, "get_training_args", staticmethod(marked(get_training_args)), why)
    loss_map[LOSS_TYPE], callbacks_map[ATTACH] = OTRLoss, AttachCallback
    trace(f"{__name__} added {LOSS_TYPE!r} to swift.loss.loss_map and {ATTACH!r} to swift.callbacks.callbacks_map")


def check(args: Any) -> bool:
    """Whether a recipe trains with OTR. Raises if OTR would be misread, or another loss would be computed."""
    text = RecipeText.read(os.environ.get(CONFIG_FILE))
    config = read_recipe(getattr(args, "loss_type", None), text, os.environ)
    if config is None:
        return False
    require_kernel(config)
    problems = conflicts(vars(args), OTHER_LOSSES, text)
    problems += other_losses(vars(args))
    refuse_conflicts(problems, "`loss_type: otr`")
    remember("swift", resolved_recipe(text, sys.argv[1:], os.environ), args.output_dir)
    return True


class OTRLoss(BaseLoss):
    """The placeholder behind `loss_type: otr`. Swift makes it before the trainer has its model."""

    def __init__(self, args: Any, trainer: Any) -> None:
        super().__init__(args, trainer)
        if args.use_liger_kernel:  # Liger's kernels stay, but for its losses
            losses = {"fused_linear_cross_entropy": False, "cross_entropy": False}
            args.liger_kernel_config = {**(args.liger_kernel_config or {}), **losses}
        args.callbacks = [*args.callbacks, ATTACH]

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "otr: looked for a call of on_init_end on the trainer's callbacks, which attaches OTR to the model, as in "
            f"ms-swift {', '.join(TRIED)}; {version('ms-swift')} made none. Nothing is trained."
        )


class AttachCallback(TrainerCallback):
    """Attaches OTR at the end of the trainer's __init__, when the trainer has its model and nothing is trained yet."""

    def on_init_end(self, *_: Any, **__: Any) -> None:
        trainer, template, log = self.trainer, self.trainer.template, get_logger()
        if type(template).compute_sft_loss is not Template.compute_sft_loss:
            raise ValueError(
                f"otr: {type(template).__name__} computes a loss of its own, and the run would not train with OTR. "
                "Choose another template."
            )
        trainer.compute_loss_func = None  # so that the trainer leaves the labels to the model
        if warning := untried_version("ms-swift", TRIED):
            log.warning(warning)
        handle = attach_and_announce(trainer, settings(os.environ), Log(log.info, log.warning))
        if shell := set_in_the_shell(os.environ, RecipeText.read(os.environ.get(CONFIG_FILE))):
            log.info(f"Settings of OTR from the shell, and not from the recipe: {', '.join(shell)}")
        handle.transform_output = self.transform_output
        trainer.compute_loss = _with_token_weights(trainer.compute_loss, handle)
        handle.on_detach.append(functools.partial(delattr, trainer, "compute_loss"))
        for metrics in trainer.custom_metrics.values():
            metrics["token_acc"] = TokenAccuracy(nan_value=None, device=trainer.args.device)

    def transform_output(self, call: Any, output: Any) -> Any:
        """Feed swift's accuracy from OTR's counts; swift would compute it from logits, which do not exist."""
        metric = self.trainer.custom_metrics["train" if self.trainer.model.training else "eval"].get("token_acc")
        if isinstance(metric, TokenAccuracy):
            metric.state, metric.count = metric.state + call.sums["accuracy"], metric.count + call.sums[TOKEN_COUNT]
        return dataclasses.replace(output, logits=None)


def _with_token_weights(compute_loss: Callable[..., Any], handle: Handle) -> Callable[..., Any]:
    """The trainer's compute_loss, without the computation from logits that it does with weights in the batch.

    An evaluation that needs whole logits keeps it.
    """

    @functools.wraps(compute_loss)
    def compute(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if handle.model.training or not handle.evaluation_needs_logits:
            weights = inputs.pop(LOSS_SCALE, None)
            if weights is not None:
                inputs[TOKEN_WEIGHTS] = weights
        return compute_loss(model, inputs, *args, **kwargs)

    return compute


class TokenAccuracy(MeanMetric):
    """Swift's mean, whose sums stay on the device until they are logged."""

    state: Any
    count: Any

    def compute(self) -> Any:
        self.state, self.count = float(self.state), int(self.count)
        return super().compute()
