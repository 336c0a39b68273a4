"""The model of a plan: the class from its config, 4-bit weights, adapters, checkpointing and OTR, without values."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from otr_plugin.command.memory import attention, checkpointing, four_bit, kernels
from otr_plugin.command.memory.plan import Liger, TrainingPlan
from otr_plugin.model.attach import attach, attached_handle
from otr_plugin.model.first_step import FirstStepReport

# The check of the first step reads values. The steps after it, of which one is counted, do without.
CHECKED = FirstStepReport(0, 0.0, 0.0)


def complete(model: Any, plan: TrainingPlan) -> None:
    """Give a model from `on_meta` tensors on torch's default device, and attach OTR: training could start."""
    _materialise(model)
    if plan.four_bit is not None:
        four_bit.make_scales(model, plan.four_bit)
    if plan.otr is not None:
        attach(model, plan.otr.model_copy(update={"kernel": "auto"})).first_step_report = CHECKED


def _materialise(model: Any) -> None:
    """Replace tensors on the meta device. Tensors that modules share stay shared."""
    made: dict[int, tuple[Any, Any]] = {}  # both tensors: no other may get the number of one that is gone
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    if id(tensor) not in made:
                        made[id(tensor)] = tensor, _on_cpu(tensor)
                    tensors[name] = made[id(tensor)][1]


def _on_cpu(tensor: Any) -> Any:
    new: Any = torch.zeros(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        new = nn.Parameter(new, requires_grad=tensor.requires_grad)
        new.__dict__ |= tensor.__dict__  # what bitsandbytes and PEFT keep there
    return new


def on_meta(config: Any, plan: TrainingPlan, on_paper: bool = True) -> Any:
    """The model on the meta device, without OTR. `config` is transformers' config of the model.

    Attention computes nothing, unless `on_paper` is False.
    """
    with torch.device("meta"):
        return _make(config, plan, attention.NAMES[plan.attention] if on_paper else plan.attention)


def _make(config: Any, plan: TrainingPlan, attention_name: str) -> Any:
    from transformers import AutoModelForCausalLM

    weights = getattr(torch, str(plan.weights))
    attention.register(plan.rows, plan.sequence, needs_mask=plan.is_packed or plan.rows > 1)
    model = AutoModelForCausalLM.from_config(config, dtype=weights, attn_implementation=attention_name).train()
    model.config.use_cache = False
    if plan.new_tokens:
        model.resize_token_embeddings(config.get_text_config().vocab_size + plan.new_tokens, mean_resizing=False)
    if plan.four_bit is not None:
        four_bit.quantise(model, plan.four_bit, weights if plan.autocast is None else getattr(torch, plan.autocast))
    if plan.liger != Liger():
        kernels.apply(model, plan.liger)
    _convert(model, plan.float32_modules)
    if plan.checkpointing != "none":
        kwargs = {"use_reentrant": plan.checkpointing == "reentrant"}
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
        if plan.is_offloaded:
            checkpointing.offload(model)
    if plan.adapter is not None or plan.trained:
        model.enable_input_require_grads()
    if plan.adapter is not None:
        model = _with_adapter(model, plan)
    elif plan.trained:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(re.search(pattern, name) for pattern in plan.trained))
    if plan.trained_in_float32:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def _convert(model: Any, names: tuple[str, ...]) -> None:
    for name, module in model.named_modules():
        if any(part in name for part in names) and hasattr(module, "weight") and module.weight.is_floating_point():
            module.to(torch.float32)


def _with_adapter(model: Any, plan: TrainingPlan) -> Any:
    from peft import LoraConfig, get_peft_model

    adapter = plan.adapter
    assert adapter is not None
    config = LoraConfig(
        r=adapter.r,
        lora_dropout=adapter.dropout,
        target_modules=list(adapter.targets) if isinstance(adapter.targets, tuple) else adapter.targets,
        modules_to_save=list(adapter.modules_to_save) or None,
        use_dora=adapter.dora,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, config, autocast_adapter_dtype=adapter.dtype == "float32")
    if adapter.dtype == "bfloat16":
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_magnitude_vector" not in name:
                parameter.data = parameter.data.to(torch.bfloat16)
    return model


def release(model: Any) -> None:
    """Detach OTR, and undo what making the model has changed in the modules of others."""
    handle = attached_handle(model)
    if handle is not None:
        handle.detach()
    kernels.undo(model)


def is_of_adapter(name: str) -> bool:
    """Whether a parameter of this name is PEFT's."""
    return "lora_" in name or ".modules_to_save." in name


def head_shape(model: Any) -> torch.Size:
    head: Any = model.get_output_embeddings()
    while not isinstance(head, nn.Linear):
        head = getattr(head, "base_layer", None) or head.original_module
    return torch.Size((head.out_features, head.in_features))


def layers(model: Any) -> list[Any]:
    """The model's decoder layers."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=()))
