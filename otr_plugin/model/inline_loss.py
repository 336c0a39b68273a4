"""Models whose forward computes the loss inline, from whole logits, instead of calling their loss_function.

OTR calls such a forward with labels=None, so that it computes no loss, and inserts its own loss into the output. This
is right only where the inline loss is plain cross entropy averaged over the call's trained tokens. INLINE_LOSS_MODELS
lists the classes for which the tests have compared it with OTR's `sft`. Any other model that does not call its
loss_function is refused in its first training step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from otr_plugin.loss.checks import IGNORE_INDEX

# The inline loss of these leaves out every position that a two-dimensional attention mask hides, labelled or not.
LOSS_IGNORES_MASKED_TOKENS = frozenset({"Gemma3ForConditionalGeneration", "Llama4ForConditionalGeneration"})
INLINE_LOSS_MODELS = LOSS_IGNORES_MASKED_TOKENS | {
    "MambaForCausalLM",
    "FalconMambaForCausalLM",
    "ModernBertDecoderForCausalLM",
}


def forward_class(model: Any) -> str:
    """The name of the transformers class that defines the model's forward; "" if another package defines it.

    The class of the model itself may have another name: FSDP makes a subclass of it.
    """
    cls = next(cls for cls in type(model).__mro__ if "forward" in vars(cls))
    return cls.__name__ if cls.__module__.startswith("transformers.models.") else ""


def trained_labels(class_name: str, arguments: dict[str, Any]) -> Tensor | None:
    """The labels among a forward's arguments, with IGNORE_INDEX where the model's own loss ignores masked tokens."""
    labels: Tensor | None = arguments.get("labels")
    mask = arguments.get("attention_mask")
    if labels is None or mask is None or class_name not in LOSS_IGNORES_MASKED_TOKENS:
        return labels
    return labels.masked_fill(mask[:, -labels.shape[1] :].to(labels.device) == 0, IGNORE_INDEX)


def forward_with_inserted_loss(
    forward: Callable[..., Any], arguments: dict[str, Any], loss_function: Callable[[Tensor], Tensor]
) -> Any:
    """Run the forward without labels, and put loss_function(logits) into its output as the loss."""
    output = forward(**arguments | {"labels": None})
    if isinstance(output, tuple):  # return_dict=False: the logits come first, and the loss before them
        return (loss_function(output[0]), *output)
    return dataclasses.replace(output, loss=loss_function(output.logits))
