"""What every host that is built on transformers' Trainer needs: draws keyed by its steps, metrics in its log."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

from transformers import Trainer, TrainerCallback

from otr_plugin.config import OTRConfig
from otr_plugin.model.attach import attach, attached_handle
from otr_plugin.model.handle import HANDLE_ATTRIBUTE, Handle

NAME = "otr"  # the attribute in which a trainer has its handle


def join(trainer: Trainer, config: OTRConfig) -> Handle:
    """Attach OTR to the trainer's model and to its log."""
    handle = attach(trainer.model, config, seed=trainer.args.seed)
    follow(trainer, handle)
    return handle


def follow(trainer: Trainer, handle: Handle) -> None:
    """Draws keyed by this trainer's steps, metrics in its log, and an error where it goes past OTR."""
    setattr(trainer, NAME, handle)
    handle.rank = trainer.args.process_index
    handle.evaluation_needs_logits = trainer.compute_metrics is not None
    _refuse_what_takes_the_labels(trainer)
    trainer.add_callback(Steps(handle))
    own_log = trainer.log

    def log(self: Trainer, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:  # training's, not evaluation's
            logs |= {name: round(value, 6) for name, value in handle.take_metrics().items()}
        own_log(logs, *args, **kwargs)

    trainer.log = MethodType(log, trainer)


def follow_attached(trainer_module: Any) -> None:
    """transformers.trainer: a Trainer that is given an attached model follows it."""
    own = trainer_module.Trainer.__init__
    if hasattr(own, HANDLE_ATTRIBUTE):
        return

    @functools.wraps(own)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        own(self, *args, **kwargs)
        handle = attached_handle(self.model)
        if handle is not None and getattr(self, NAME, None) is not handle:
            follow(self, handle)
            self.accelerator.print(handle.describe())

    setattr(init, HANDLE_ATTRIBUTE, True)
    trainer_module.Trainer.__init__ = init


def _refuse_what_takes_the_labels(trainer: Trainer) -> None:
    """A Trainer with a loss of its own takes the labels out of the batch, and the model is never asked."""
    for name, fix in (
        ("label_smoother", "set label_smoothing_factor to 0"),
        ("compute_loss_func", "leave the trainer's compute_loss_func out"),
    ):
        if getattr(trainer, name, None) is not None:
            raise ValueError(f"otr: the trainer's {name} would compute the loss, and OTR would not be trained: {fix}.")


class Steps(TrainerCallback):
    """Tells the handle which optimiser step it is in, and that a step has to have come by."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.handle.start_step(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.handle.micro_batch == 0:
            raise RuntimeError(
                "otr: an optimiser step was taken without OTR's loss: something else computes the loss from the "
                "model's output. Remove the setting that does, or the plugin."
            )
