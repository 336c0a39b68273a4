"""attach(): finds the model that owns the head, under whatever wraps it, and makes it train with OTR."""

from __future__ import annotations

from typing import Any

from torch import nn

from otr_plugin.autoload import know_trainers
from otr_plugin.config import OTRConfig
from otr_plugin.model.handle import HANDLE_ATTRIBUTE, Handle


def attach(model: nn.Module, config: OTRConfig | None = None, *, seed: int = 0) -> Handle:
    """Make a Hugging Face causal language model (PEFT-wrapped, compiled or neither) train with OTR.

    `handle.detach()` makes it what it was. Evaluation (model.eval(), with labels) stays plain NLL. Draws come
    from a generator of OTR's own, keyed by seed, step, micro-batch and rank.
    """
    inner = find_causal_lm(model)
    if hasattr(inner, HANDLE_ATTRIBUTE):
        getattr(inner, HANDLE_ATTRIBUTE).detach()
    know_trainers()
    return Handle(inner, OTRConfig() if config is None else config, seed)


def attached_handle(model: Any) -> Handle | None:
    """What attach() gave for this model, if it is attached."""
    try:
        handle: Handle | None = getattr(find_causal_lm(model), HANDLE_ATTRIBUTE, None)
    except ValueError:  # no causal language model
        return None
    return handle


def find_causal_lm(model: Any) -> Any:
    """The model that owns the head, under whatever wraps it."""
    inner = model
    while True:
        if hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif isinstance(inner, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        elif hasattr(inner, "get_base_model") and inner.get_base_model() is not inner:
            inner = inner.get_base_model()
        else:
            break
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
    if head is None or not hasattr(inner, "loss_function"):
        raise ValueError(
            f"otr: expected a causal language model of transformers, got {type(inner).__name__}: "
            + ("it has no loss_function." if head is not None else "get_output_embeddings() gives no head.")
        )
    return inner
