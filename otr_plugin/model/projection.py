"""The matrix product behind a model's output head, and the scale and softcap that the model applies to the logits.

The loss computes the logits itself, chunk by chunk, so it needs the operands of the head's product instead of the
head's output. They are read from the head in every forward: a host may have gathered or quantised the weight since the
last one, and an adapter on the head changes in every step.

An engine that shards a model gathers the weight of a module for the time of that module's own call. So whatever a head
consists of, such as the factors of LoRA, is read inside the calls of the modules that own it: see `inside_parts`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from otr_plugin.loss.vocabulary import VocabularySlice
from otr_plugin.model.ranks import is_dtensor
from otr_plugin.model.replaced_forward import ReplacedForward
from otr_plugin.model.wrappers import unwrapped


class LinearArguments(NamedTuple):
    """`torch.nn.functional.linear(hidden, weight, bias)` equals the output of the head, or a slice of it."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    vocabulary_slice: VocabularySlice | None = None  # with tensor parallelism: which columns of the output


def linear_arguments(head: Any, hidden: Tensor, mesh: Any = None) -> LinearArguments:
    """Return the arguments with which F.linear equals `head(hidden)`, or this rank's slice of it.

    `mesh` is that of tensor parallelism, if the model is split by it.

    Under autocast they may have several dtypes, as F.linear then converts them. Otherwise they have that of the hidden
    states: nn.Linear takes no others, and TRL's fused head, which takes a trained head in float32 or bfloat16 beside
    hidden states of the other dtype, converts the head.

    Raises ValueError for a head that computes something else than a linear layer, or that is not supported.
    """
    own = own_linear_arguments(head, hidden, mesh)
    if own.hidden.dtype == own.weight.dtype or torch.is_autocast_enabled(own.hidden.device.type):
        return own
    bias = None if own.bias is None else own.bias.to(own.hidden.dtype)
    return LinearArguments(own.hidden, own.weight.to(own.hidden.dtype), bias, own.vocabulary_slice)


def own_linear_arguments(head: Any, hidden: Tensor, mesh: Any = None) -> LinearArguments:
    """linear_arguments with the weight and the bias in the head's own dtype."""
    head = unwrapped(head)
    if _has_trained_copy(head):
        return own_linear_arguments(_active_copy(head), hidden, mesh)
    if mesh is not None and is_dtensor(innermost(head).weight):
        return _slice_of_vocabulary(head, hidden, mesh)
    if hasattr(head, "token_adapter"):
        return _with_trained_tokens(head.token_adapter, hidden)
    if _has_lora(head):
        return _with_lora(head, hidden)
    if type(head).__name__ == "Linear4bit":
        return _dequantised(head, hidden)
    require_gathered(head.weight)
    return LinearArguments(hidden, head.weight, head.bias)


def _slice_of_vocabulary(head: Any, hidden: Tensor, mesh: Any) -> LinearArguments:
    """A head that tensor parallelism splits. A weight that FSDP should have gathered is on another mesh."""
    from torch.distributed.tensor import Replicate, Shard

    weight = innermost(head).weight
    if weight.device_mesh != mesh:
        require_gathered(weight)
    is_sliced = weight.placements == (Shard(0),)
    if innermost(head) is not head or is_dtensor(hidden) or not (is_sliced or weight.placements == (Replicate(),)):
        raise ValueError(
            f"otr: tensor parallelism splits the model's output head, a {type(head).__name__}, as {weight.placements}, "
            f"and passes it a {type(hidden.data).__name__}. OTR supports a linear layer that is split over the "
            "vocabulary and takes a plain tensor, as in the plans of transformers ('lm_head': "
            "'colwise_gather_output'), without an adapter on the head. Remove lm_head from the adapter's "
            "target_modules, use the model's own plan, or set the size of "
            "tensor parallelism to 1."
        )
    rows, bias = weight.to_local(), None if head.bias is None else head.bias.to_local()
    if not is_sliced:
        return LinearArguments(hidden, rows, bias)
    # The slices are in the order of the ranks, without gaps, and of one size but for the last ones.
    start = min(mesh.get_local_rank() * -(-len(weight) // mesh.size()), len(weight))
    return LinearArguments(hidden, rows, bias, VocabularySlice(start, len(weight), mesh.get_group()))


def inside_parts(head: Any, hidden: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    """Return body(hidden), called inside the own calls of all modules of the head that linear_arguments reads.

    To be used inside the head's own call. Hooks of the modules see `hidden` as their input and the result of `body` as
    their output, and may replace both.
    """
    return _inside(parts(head), hidden, body)


def _inside(modules: Sequence[Any], hidden: Tensor, body: Callable[[Tensor], Tensor]) -> Tensor:
    if not modules:
        return body(hidden)

    def make_forward(original: Any) -> Any:
        def forward(self: Any, hidden: Tensor) -> Tensor:
            return _inside(modules[1:], hidden, body)

        return forward

    replaced = ReplacedForward(unwrapped(modules[0]), make_forward)
    try:
        result: Tensor = modules[0](hidden)
    finally:
        replaced.undo()
    return result


def parts(head: Any) -> list[Any]:
    """The modules other than the head itself whose parameters linear_arguments reads, as they are called.

    Raises ValueError for a head that computes something else than a linear layer, or that is not supported.
    """
    head = unwrapped(head)
    if _has_trained_copy(head):
        return _and_parts(_active_copy(head))
    if hasattr(head, "token_adapter"):
        return [head.token_adapter, *_and_parts(head.token_adapter.base_layer)]
    if _has_lora(head):
        return [part for name in _lora_names(head) for part in _lora_parts(head, name)] + _and_parts(head.base_layer)
    kind = type(head).__name__
    if kind == "Linear4bit":
        return []
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise ValueError(
            f"otr: the model's output head is a {kind}, whose forward is not that of a plain linear layer. Supported "
            "heads are nn.Linear and bitsandbytes' Linear4bit, each also with LoRA, DoRA or trainable_token_indices, "
            "or in modules_to_save. Exclude the head from quantisation and from the adapter's target modules."
        )
    _require_floating_point(head.weight)
    return []


def _and_parts(part: Any) -> list[Any]:
    return [part, *parts(part)]


def innermost(head: Any) -> Any:
    """The linear layer at the bottom of the head, which holds the whole weight."""
    head = unwrapped(head)
    if _has_trained_copy(head):
        return innermost(_active_copy(head))
    if hasattr(head, "token_adapter"):
        return innermost(head.token_adapter.base_layer)
    return innermost(head.base_layer) if _has_lora(head) else head


def _has_trained_copy(head: Any) -> bool:
    """Whether PEFT may train a copy of the head (modules_to_save)."""
    return hasattr(head, "modules_to_save") and hasattr(head, "original_module")


def _active_copy(head: Any) -> Any:
    active = _active_adapters(head)
    return head.modules_to_save[active[0]] if active else head.original_module


def _has_lora(head: Any) -> bool:
    return hasattr(head, "lora_A") and hasattr(head, "base_layer")


def _lora_names(head: Any) -> list[str]:
    """The adapters that add to the head's output. A merged adapter is a part of the base weight."""
    return [] if head.merged else [name for name in _active_adapters(head) if name in head.lora_A]


def _lora_parts(head: Any, name: str) -> list[Any]:
    if not _is_dora(head, name):
        return [head.lora_B[name]]  # A is called as it is
    return [head.lora_magnitude_vector[name], head.lora_A[name], head.lora_B[name]]


def _is_dora(head: Any, name: str) -> bool:
    if name not in getattr(head, "lora_variant", {}):
        return False
    variant = type(head.lora_variant[name]).__name__
    if variant == "DoraLinearVariant" and len(_active_adapters(head)) == 1 and head.lora_B[name].bias is None:
        return True
    raise ValueError(
        f"otr: the adapter on the model's output head is a {variant}; only plain LoRA and one DoRA without bias are "
        "supported there. Remove lm_head from the adapter's target_modules, or train the whole head with "
        "modules_to_save."
    )


def _require_floating_point(weight: Tensor) -> None:
    # By its name, because importing fake tensors, on which `otr memory` runs a step, takes time that no training needs.
    is_plain = type(weight.data) is Tensor or type(weight.data).__name__ == "FakeTensor"
    if weight.dtype.is_floating_point and (is_plain or is_dtensor(weight)):
        return
    raise ValueError(
        f"otr: the weight of the model's output head is a {type(weight.data).__name__} of {weight.dtype}; expected a "
        "plain floating-point tensor. Exclude the head from quantisation."
    )


def require_gathered(weight: Any) -> None:
    """Raise RuntimeError if an engine has not gathered the weight, inside the call for which it should have.

    Its memory must not be read: FSDP has freed it.
    """
    sharded = is_dtensor(weight)
    if sharded or weight.dim() != 2 or (weight.untyped_storage().nbytes() == 0 and weight.numel()):
        what = f"a DTensor with placements {weight.placements}" if sharded else f"of shape {list(weight.shape)}"
        raise RuntimeError(
            f"otr: inside the call of the model's output head, its weight is still sharded ({what}): FSDP or ZeRO-3 "
            "has not gathered it. They do so in the call of the module that they wrap: call that module, and not its "
            "forward or a module inside it."
        )


def head_device(head: Any) -> torch.device:
    """The device of the head's weight; in a model split over devices, the hidden states may be on another one."""
    device: torch.device = innermost(head).weight.device
    if device.type == "meta":
        raise ValueError(
            "otr: the weight of the model's output head is offloaded: it is on a device only while the head's own "
            "forward runs, which OTR replaces. Keep lm_head on a device (device_map)."
        )
    return device


def _active_adapters(layer: Any) -> list[str]:
    if getattr(layer, "_disable_adapters", False):
        return []
    return list(layer.active_adapters)


def _with_lora(head: Any, hidden: Tensor) -> LinearArguments:
    """LoRA's h W' + s (dropout(h) A') B' as one product of wider matrices: [h, s dropout(h) A'] @ [W, B]'."""
    base = own_linear_arguments(head.base_layer, hidden)
    inputs, weights = [base.hidden], [base.weight]
    bias = base.bias
    names = _lora_names(head)
    if not names:
        return base
    for name in names:
        if _is_dora(head, name):
            return _with_dora(head, name, base)
        a, b = head.lora_A[name], unwrapped(head.lora_B[name])
        require_gathered(b.weight)
        low_rank = head.scaling[name] * a(head.lora_dropout[name](hidden.to(unwrapped(a).weight.dtype)))
        inputs.append(low_rank.to(base.hidden.dtype))
        weights.append(b.weight.to(base.weight.dtype))
        if b.bias is not None:
            scaled = head.scaling[name] * b.bias
            bias = scaled.to(base.weight.dtype) if bias is None else bias + scaled
    return LinearArguments(torch.cat(inputs, -1), torch.cat(weights, -1), bias)


def _with_dora(head: Any, name: str, base: LinearArguments) -> LinearArguments:
    """DoRA's m (h W' + s (h A') B') as [h, s h A'] @ [m W, m B]'; m is a trained magnitude over a norm, for each row.

    With dropout d, PEFT computes h W' + (m - 1) d(h) W' + m s (d(h) A') B', which is a product with W and (m - 1) W.
    """
    a, b = unwrapped(head.lora_A[name]), unwrapped(head.lora_B[name])
    dora = unwrapped(head.lora_magnitude_vector[name])
    dropout, scaling = head.lora_dropout[name], head.scaling[name]
    hidden, weight = base.hidden, base.weight
    norm = dora.get_weight_norm(weight, (b.weight @ a.weight).detach().to(weight.dtype), scaling).detach()
    m = (dora.weight / norm).to(weight.dtype).unsqueeze(1)
    if isinstance(dropout, nn.Identity) or not head.training:
        dropped, inputs, weights = hidden.to(a.weight.dtype), [hidden], [m * weight]
    else:
        dropped = dropout(hidden.to(a.weight.dtype))
        inputs, weights = [hidden, dropped.to(hidden.dtype)], [weight, (m - 1) * weight]
    low_rank = scaling * nn.functional.linear(dropped, a.weight)  # this runs inside the call of A
    inputs.append(low_rank.to(hidden.dtype))
    weights.append(m * b.weight.to(weight.dtype))
    return LinearArguments(torch.cat(inputs, -1), torch.cat(weights, -1), base.bias)


def _with_trained_tokens(adapter: Any, hidden: Tensor) -> LinearArguments:
    """PEFT's trainable_token_indices on a head that is tied to the embedding: some rows of the weight are trained."""
    base = own_linear_arguments(adapter.base_layer, hidden)
    active = _active_adapters(adapter)
    if adapter.merged or not active:
        return base
    return LinearArguments(base.hidden, adapter.get_merged_weights(active), None)  # PEFT leaves the bias out, too


def _dequantised(head: Any, hidden: Tensor) -> LinearArguments:
    """A bitsandbytes Linear4bit with its weight in the compute dtype."""
    from bitsandbytes import functional

    dtype = head.compute_dtype or hidden.dtype
    data, state = head.weight.data, head.weight.quant_state
    # On CPUs with bfloat16 instructions, a forward in eval mode repacks the layer's weight in place, into a layout that
    # dequantize_4bit does not read. The state is copied because the conversion back writes to it, and the layer itself
    # still needs the packed form.
    if getattr(state, "packing_format_for_cpu", False):
        data, state = functional._convert_weight_packed_for_cpu_inverse(data, copy.copy(state))
    weight = functional.dequantize_4bit(data, state).to(dtype)
    return LinearArguments(hidden.to(dtype), weight, None if head.bias is None else head.bias.to(dtype))


class LogitTransform(NamedTuple):
    """The scale and softcap that a model applies to its head's output before the loss."""

    logit_scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: Tensor) -> Tensor:
        logits = logits * self.logit_scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


# The names that model families use for these settings in their configs.
MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, Muse
DIVISOR = "logits_scaling"  # Granite
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")  # Gemma, RecurrentGemma


def logit_transform(config: Any) -> LogitTransform:
    """Read the transform from a model's config. first_step.py checks that the model applies this and nothing more."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale, softcap = 1.0, None
    for name in MULTIPLIERS:
        scale *= _number(text, name) or 1.0
    divisor = _number(text, DIVISOR)
    if divisor:
        # HyperCLOVA X multiplies by this setting; MiniCPM3 divides the hidden states by it, before the head.
        scale *= {"hyperclovax": divisor, "minicpm3": 1.0}.get(text.model_type, 1 / divisor)
    for name in SOFTCAPS:
        softcap = _number(text, name) or softcap
    return LogitTransform(scale, softcap)


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
