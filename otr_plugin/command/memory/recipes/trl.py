"""TRL's recipes for `trl sft`. The defaults are those of 1.16.0."""

from __future__ import annotations

from typing import Any

from otr_plugin.command.memory.plan import Adapter, FourBit, TrainingPlan
from otr_plugin.command.memory.recipes.keys import EIGHT_BIT, NOT_MODELLED, SEVERAL_GPUS, Keys, attention
from otr_plugin.config import OTRConfig

WITHOUT_EFFECT = """
    assistant_only_loss chat_template_path completion_only_loss dataset_config dataset_kwargs dataset_name
    dataset_streaming dataset_test_split dataset_text_field dataset_train_split datasets eos_token eval_packing
    lora_task_type packing_strategy pad_token save_model_max_shard_size shuffle_dataset streaming test_split_size
    truncation_mode trust_remote_code use_rslora
    """


def plan(recipe: dict[str, Any], path: object, otr: OTRConfig | None) -> TrainingPlan:
    keys = Keys(recipe, path, WITHOUT_EFFECT)
    keys.cannot("deepspeed fsdp fsdp_config parallelism_config accelerate_config", SEVERAL_GPUS)
    keys.cannot("load_in_8bit", EIGHT_BIT)
    keys.cannot("lora_target_parameters activation_offloading torch_compile fp8", NOT_MODELLED)
    kwargs = keys.get("model_init_kwargs", {})
    dtype = str(
        kwargs.get("dtype") or kwargs.get("torch_dtype") or keys.get("dtype") or keys.get("torch_dtype", "float32")
    )
    weights: Any = None if dtype == "auto" else dtype
    fp16 = keys.flag("fp16")
    autocast: Any = "float16" if fp16 else "bfloat16" if keys.flag("bf16", True) else None
    sequence, rows = keys.number("max_length", 1024), keys.number("per_device_train_batch_size", 8)
    is_packed = keys.flag("packing") and keys.get("packing_strategy", "bfd") != "wrapped"
    if is_packed or keys.flag("padding_free"):
        sequence, rows, is_packed = sequence * rows, 1, True  # the rows of a micro-batch, one after the other
    implementation = kwargs.get("attn_implementation") or keys.get("attn_implementation", "sdpa")
    is_four_bit = keys.flag("load_in_4bit")
    return TrainingPlan(
        host="trl",
        model=str(keys.get("model_name_or_path", "")),
        sequence=sequence,
        rows=rows,
        is_packed=is_packed,
        accumulation=keys.number("gradient_accumulation_steps", 1),
        weights=weights,
        autocast=autocast,
        adapter=_adapter(keys, is_four_bit) if keys.flag("use_peft") else None,
        four_bit=_four_bit(keys) if is_four_bit else None,
        checkpointing=keys.checkpointing(default_reentrant=False),
        attention=attention(implementation),
        optimiser=keys.optimiser("optim", "adamw_torch_fused"),
        liger=keys.liger("use_liger_kernel", otr),
        otr=otr,
        not_counted=keys.not_counted(),
    )


def _four_bit(keys: Keys) -> FourBit:
    kind: Any = keys.get("bnb_4bit_quant_type", "nf4")
    return FourBit(kind, keys.flag("use_bnb_nested_quant"))


def _adapter(keys: Keys, is_four_bit: bool) -> Adapter:
    given = keys.names("lora_target_modules")
    targets: Any = given[0] if given == ("all-linear",) else given or None
    return Adapter(
        r=keys.number("lora_r", 16),
        targets=targets,
        dropout=float(keys.get("lora_dropout", 0.05)),
        modules_to_save=keys.names("lora_modules_to_save"),
        dora=keys.flag("use_dora"),
        dtype="bfloat16" if is_four_bit else "float32",  # TRL converts adapters beside 4-bit weights
    )
