"""The checks of otr_loss's arguments. A wrong argument raises a ValueError with what was expected and what was found.

Values inside tensors are checked on a CPU only. On a GPU, reading them would make the CPU wait for the GPU; there, a
label that is out of range makes the loss NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NoReturn

import torch
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss.dispatch import why_not_triton
from otr_plugin.loss.vocabulary import VocabularySlice

IGNORE_INDEX = -100  # the label of a position that is not trained, as in torch.nn.functional.cross_entropy
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# A number outside this range becomes 0 or infinity where the loss computes with it.
SMALLEST, LARGEST = torch.finfo(torch.float32).smallest_normal, torch.finfo(torch.float32).max


def check(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    config: OTRConfig,
    bias: Tensor | None,
    num_items: float | Tensor | None,
    uniforms: Tensor | None,
    generator: torch.Generator | None,
    token_weights: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    vocabulary_slice: VocabularySlice | None = None,
) -> None:
    """Raise a ValueError for the first argument of otr_loss that is wrong."""
    if not isinstance(config, OTRConfig):
        _refuse("config", "an OTRConfig", f"{type(config).__name__}; write OTRConfig(**settings)")
    _check_tensors(hidden, weight, labels, bias, vocabulary_slice)
    if config.kernel == "triton" and vocabulary_slice is not None:
        _refuse("kernel", "auto or torch", "triton, which computes no slice of a vocabulary")
    if config.kernel == "triton" and (reason := why_not_triton(hidden.device, hidden.dtype)):
        _refuse("kernel", "auto or torch", f"triton, which cannot be used here: {reason}")
    _check_number("logit_scale", logit_scale, "a finite number other than 0", lambda x: x != 0)
    if softcap is not None:
        _check_number("softcap", softcap, "None or a finite number > 0", lambda x: x > 0)
    if num_items is not None:
        _check_num_items(num_items)
    if labels.device.type == "cpu":
        _check_label_values(labels, len(weight) if vocabulary_slice is None else vocabulary_slice.total)
    if config.draws and uniforms is not None:
        _check_uniforms(uniforms, hidden, config.samples)
    if token_weights is not None:
        _check_token_weights(token_weights, labels)
    if config.draws and generator is not None:
        if not isinstance(generator, torch.Generator):
            _refuse("generator", "a torch.Generator", type(generator).__name__)
        if generator.device.type != hidden.device.type:
            _refuse("generator", f"one on {hidden.device.type}, the device of hidden", f"one on {generator.device}")


def _refuse(argument: str, expected: str, got: str) -> NoReturn:
    raise ValueError(f"otr_loss: {argument}: expected {expected}, got {got}")


def _check_number(name: str, value: object, expected: str, allowed: Callable[[float], bool]) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not -math.inf < number < math.inf or not allowed(number):  # math.isfinite raises for integers beyond float64
        _refuse(name, expected, repr(value))
    if not SMALLEST <= abs(number) <= LARGEST:
        found = f"{number}" if isinstance(number, float) else "a larger integer"  # of thousands of digits, perhaps
        _refuse(name, f"{expected}, of a size from {SMALLEST:.1e} to {LARGEST:.1e}, which float32 holds", found)


def _check_num_items(num_items: float | Tensor) -> None:
    if isinstance(num_items, Tensor):
        if num_items.numel() != 1:
            _refuse("num_items", "one number", f"a tensor of shape {tuple(num_items.shape)}")
        _check_has_values("num_items", num_items)
        if num_items.device.type != "cpu":
            return
    value = num_items.item() if isinstance(num_items, Tensor) else num_items
    _check_number("num_items", value, "a finite number > 0", lambda x: x > 0)


def _check_has_values(name: str, tensor: Tensor) -> None:
    """Refuse tensors that are not dense, or that have no values."""
    if tensor.layout != torch.strided or tensor.is_nested:
        kind = "a nested tensor" if tensor.is_nested else f"one of layout {tensor.layout}"
        _refuse(name, "a dense tensor", kind)
    if tensor.device.type == "meta":
        _refuse(name, "a tensor with values", "one on meta")


def _check_tensors(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, vocabulary_slice: VocabularySlice | None
) -> None:
    tensors = {"hidden": hidden, "weight": weight, "labels": labels}
    if bias is not None:
        tensors["bias"] = bias
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            _refuse(name, "a torch.Tensor", type(tensor).__name__)
        _check_has_values(name, tensor)
    if hidden.dim() != 2:
        _refuse("hidden", "shape [N, D] (pass hidden.flatten(0, -2))", _shape(hidden))
    may_be_empty = vocabulary_slice is not None  # of a small vocabulary, the last processes may have nothing
    if weight.dim() != 2 or (len(weight) == 0 and not may_be_empty) or weight.shape[1] != hidden.shape[1]:
        _refuse(
            "weight",
            f"shape [V, {hidden.shape[1]}] with V >= 1, because hidden has shape {_shape(hidden)}",
            _shape(weight),
        )
    if labels.shape != hidden.shape[:1]:
        _refuse("labels", f"shape [{len(hidden)}], because hidden has shape {_shape(hidden)}", _shape(labels))
    if bias is not None and bias.shape != weight.shape[:1]:
        _refuse("bias", f"shape [{len(weight)}], because weight has shape {_shape(weight)}", _shape(bias))

    if hidden.dtype not in FLOATS:
        _refuse("hidden", "float32, bfloat16, float16 or float64", str(hidden.dtype))
    if labels.dtype not in (torch.int64, torch.int32):
        _refuse("labels", "int64 or int32", str(labels.dtype))
    # Autocast converts the inputs of a linear layer to one dtype, so there they may differ.
    may_differ = torch.is_autocast_enabled(hidden.device.type)
    for name in ("weight", "bias"):
        dtype = tensors[name].dtype if name in tensors else hidden.dtype
        if dtype != hidden.dtype and not (may_differ and dtype in FLOATS):
            _refuse(name, f"{hidden.dtype}, the dtype of hidden", str(dtype))
    for name, tensor in tensors.items():
        if tensor.device != hidden.device:
            _refuse(name, f"a tensor on {hidden.device}, the device of hidden", f"one on {tensor.device}")


def _check_label_values(labels: Tensor, vocabulary: int) -> None:
    wrong = ((labels < 0) | (labels >= vocabulary)) & (labels != IGNORE_INDEX)
    if wrong.any():
        position = int(wrong.nonzero()[0])
        _refuse(
            "labels",
            f"0 to {vocabulary - 1}, or {IGNORE_INDEX} at positions that are not trained",
            f"{labels[position].item()} at position {position}",
        )


def _check_uniforms(uniforms: Tensor, hidden: Tensor, samples: int) -> None:
    if not isinstance(uniforms, Tensor):
        _refuse("uniforms", "a torch.Tensor", type(uniforms).__name__)
    _check_has_values("uniforms", uniforms)
    if uniforms.shape != (len(hidden), samples):
        _refuse("uniforms", f"shape [{len(hidden)}, {samples}] (positions, samples)", _shape(uniforms))
    if uniforms.dtype not in (torch.float32, torch.float64):
        _refuse("uniforms", "float32 or float64", str(uniforms.dtype))
    if uniforms.device != hidden.device:
        _refuse("uniforms", f"a tensor on {hidden.device}, the device of hidden", f"one on {uniforms.device}")
    if uniforms.device.type == "cpu":
        outside = ~((uniforms >= 0) & (uniforms < 1))
        if outside.any():
            _refuse("uniforms", "values in [0, 1)", f"{uniforms[outside][0].item()}")


def _check_token_weights(weights: Tensor, labels: Tensor) -> None:
    if not isinstance(weights, Tensor):
        _refuse("token_weights", "a torch.Tensor", type(weights).__name__)
    _check_has_values("token_weights", weights)
    if weights.shape != labels.shape:
        _refuse("token_weights", f"shape {_shape(labels)}, that of labels", _shape(weights))
    if weights.dtype not in FLOATS:
        _refuse("token_weights", "float32, bfloat16, float16 or float64", str(weights.dtype))
    if weights.device != labels.device:
        _refuse("token_weights", f"a tensor on {labels.device}, the device of hidden", f"one on {weights.device}")
    if weights.device.type == "cpu":
        outside = ~((weights >= 0) & (weights <= LARGEST)) & (labels != IGNORE_INDEX)
        if outside.any():
            position = int(outside.nonzero()[0])
            _refuse("token_weights", "finite values >= 0", f"{weights[position].item()} at position {position}")


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
