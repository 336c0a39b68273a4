"""Models that compute their loss by themselves, from whole logits: they are not shown the labels, and are given OTR's.

Each is plain cross entropy, averaged over the call's trained tokens; the tests compare it with OTR's `sft`. A model
that is not named here, and does not ask its loss_function either, is refused at its first step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from otr_plugin.loss.checks import IGNORE_INDEX

# Their loss leaves out what a two-dimensional attention mask leaves out.
MASKED = frozenset({"Gemma3ForConditionalGeneration", "Llama4ForConditionalGeneration"})
OWN_LOSS = MASKED | {"MambaForCausalLM", "FalconMambaForCausalLM", "ModernBertDecoderForCausalLM"}


def author(model: Any) -> str:
    """The class of transformers that wrote the model's forward: FSDP subclasses it, and others may write their own."""
    cls = next(cls for cls in type(model).__mro__ if "forward" in vars(cls))
    return cls.__name__ if cls.__module__.startswith("transformers.models.") else ""


def labels_of(author: str, given: dict[str, Any]) -> Tensor | None:
    """The call's labels, but for those that the model would leave out."""
    labels: Tensor | None = given.get("labels")
    mask = given.get("attention_mask")
    if labels is None or mask is None or author not in MASKED:
        return labels
    return labels.masked_fill(mask[:, -labels.shape[1] :].to(labels.device) == 0, IGNORE_INDEX)


def without_labels(forward: Callable[..., Any], given: dict[str, Any], loss_of: Callable[[Tensor], Tensor]) -> Any:
    output = forward(**given | {"labels": None})
    return dataclasses.replace(output, loss=loss_of(output.logits))
