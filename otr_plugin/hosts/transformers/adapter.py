"""transformers' Trainer, and every host built on it: draws follow its steps, metrics go into its log.

Two verbs. *Attach*: a model trains with OTR (`otr_plugin.attach`). *Connect*: a trainer and an attached model work
together, as `connect` describes.
"""

from __future__ import annotations

import functools
from types import MethodType, ModuleType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.patching import is_marked, marked, replace
from otr_plugin.hosts.recipes import RecipeError
from otr_plugin.loss.dispatch import why_not_triton
from otr_plugin.model.attach import attach, attached_handle
from otr_plugin.model.handle import HANDLE_ATTRIBUTE, Handle


def attach_and_connect(trainer: Trainer, config: OTRConfig) -> Handle:
    """Attach OTR to the trainer's model, and connect the trainer to it."""
    handle = attach(trainer.model, config, seed=trainer.args.seed)
    connect(trainer, handle)
    return handle


def connect(trainer: Trainer, handle: Handle) -> None:
    """Make a trainer work with the attached model that it trains.

    - Draws are keyed by the trainer's optimiser step and by its rank.
    - A training step in which OTR's loss was not computed raises, and so does a trainer with a loss of its own.
    - Every entry of the training log gets OTR's metrics.
    - Evaluation computes logits only if the trainer has compute_metrics.
    """
    setattr(trainer, HANDLE_ATTRIBUTE, handle)
    handle.rank = trainer.args.process_index
    handle.evaluation_needs_logits = trainer.compute_metrics is not None
    _refuse_own_loss(trainer)
    trainer.add_callback(StepCallback(handle))
    log_without_metrics = trainer.log

    def log(self: Trainer, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # an entry of training; those of evaluation have eval_loss
            logs |= {name: round(value, 6) for name, value in handle.take_metrics().items()}
        log_without_metrics(logs, *args, **kwargs)

    trainer.log = MethodType(log, trainer)


class StepCallback(TrainerCallback):
    """Keys the draws by the trainer's step, and checks every step."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed run continues with its checkpoint's global_step, and so repeats the draws of an unbroken run.
        self.handle.start_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.handle.require_loss_in_step()


def patch_trainer(trainer_module: ModuleType) -> None:
    """transformers.trainer: a Trainer that is constructed with an attached model is connected to it."""
    trainer: Any = trainer_module.Trainer
    original = trainer.__init__
    if is_marked(original):
        return

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        handle = attached_handle(self.model)
        if handle is not None and getattr(self, HANDLE_ATTRIBUTE, None) is not handle:
            connect(self, handle)
            self.accelerator.print(handle.describe())

    replace(trainer, "__init__", marked(init), "connects a Trainer to its model, if the model is attached")


def require_kernel(config: OTRConfig) -> None:
    """Raise for `kernel: triton` where Triton cannot run: when the recipe is read, before any weight is loaded."""
    if config.kernel == "triton":
        device = torch.device("cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else "cpu")
        if reason := why_not_triton(device, torch.float32):
            raise RecipeError([f"`kernel: triton` cannot be used: {reason}. Set `kernel: auto`, or remove it"])


def _refuse_own_loss(trainer: Trainer) -> None:
    """A Trainer with a loss of its own takes the labels out of the batch, so that the model computes no loss."""
    for name, fix in (
        ("label_smoother", "set label_smoothing_factor to 0"),
        ("compute_loss_func", "construct the trainer without compute_loss_func"),
    ):
        if getattr(trainer, name, None) is not None:
            raise ValueError(
                f"otr: the trainer's {name} would compute the loss, and the run would not train with OTR: {fix}."
            )
