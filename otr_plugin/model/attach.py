"""attach(): makes a Hugging Face causal language model train with OTR."""

from __future__ import annotations

from typing import Any

from torch import nn

from otr_plugin.autoload import patch_trainers, unpatch_trainers
from otr_plugin.config import OTRConfig
from otr_plugin.model.handle import HANDLE_ATTRIBUTE, Handle, require_attachable
from otr_plugin.model.ranks import refuse_data_parallel
from otr_plugin.model.wrappers import unwrapped

REASON = "an attached model"


def attach(model: nn.Module, config: OTRConfig | None = None, *, seed: int | None = None) -> Handle:
    """Make a Hugging Face causal language model (PEFT-wrapped, compiled or neither) train with OTR.

    From then on `model(..., labels=...)` returns OTR's loss in training, and plain NLL in evaluation. Draws come from a
    generator of OTR's own, keyed by `seed`, the optimiser step, the micro-batch and the rank. Without a seed it is that
    of the trainer's arguments, and 0 if no trainer trains the model.

    While any model is attached, methods of transformers' `Trainer` and TRL's `SFTTrainer` are wrapped in this process.
    A trainer of an attached model then draws by its own steps and logs OTR's metrics, whether the model was attached
    before the trainer was constructed or after. Trainers of other models are unaffected.

    `handle.detach()` restores the model, and with the last attached model the trainer classes. A model that is attached
    again is detached first.
    """
    if isinstance(model, nn.DataParallel):
        refuse_data_parallel()
    inner, config = find_causal_lm(model), OTRConfig() if config is None else config
    require_attachable(inner, config)  # before the first handle is detached: an error leaves the model as it was
    if hasattr(inner, HANDLE_ATTRIBUTE):
        getattr(inner, HANDLE_ATTRIBUTE).detach()
    handle = Handle(inner, config, seed)
    handle.on_detach.append(_unpatch_trainers_after_the_last)
    try:
        patch_trainers(REASON)
    except Exception:
        handle.detach()
        raise
    return handle


def _unpatch_trainers_after_the_last() -> None:
    if not Handle.attached:
        unpatch_trainers(REASON)


def attached_handle(model: Any) -> Handle | None:
    """The handle of an attached model; None for any other object."""
    try:
        handle: Handle | None = getattr(find_causal_lm(model), HANDLE_ATTRIBUTE, None)
    except ValueError:
        return None
    return handle


def find_causal_lm(model: Any) -> Any:
    """The model that owns the language-model head, under the wrappers of engines, PEFT and ms-swift's own tuners."""
    inner = model
    while True:
        inner = unwrapped(inner)
        if hasattr(inner, "get_base_model") and inner.get_base_model() is not inner:
            inner = inner.get_base_model()
        elif not hasattr(type(inner), "get_output_embeddings") and "base_model" in getattr(inner, "_modules", {}):
            inner = inner.base_model  # ms-swift's SwiftModel, which only passes the model's attributes on
        else:
            break
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None or not hasattr(inner, "loss_function"):
        raise ValueError(
            f"otr: expected a causal language model of transformers, got {type(inner).__name__}: "
            + ("it has no loss_function." if head is not None else "get_output_embeddings() returns no head.")
        )
    return inner
