"""ms-swift's recipes for `swift sft`. The defaults are those of 4.6.0."""

from __future__ import annotations

import math
from typing import Any

from otr_plugin.command.memory.plan import Adapter, FourBit, TrainingPlan
from otr_plugin.command.memory.recipes.keys import NOT_MODELLED, OTHER_TRAININGS, SEVERAL_GPUS, Keys, attention
from otr_plugin.config import OTRConfig

WITHOUT_EFFECT = """
    ENV acc_strategy add_version agent_template check_model create_checkpoint_symlink dataset dataset_shuffle
    external_plugins lazy_tokenize load_from_cache_file lora_bias loss_scale max_new_tokens model_author model_name
    model_type packing_num_proc save_model_checkpoint split_dataset_ratio streaming strict system task_type
    temperature template train_dataloader_shuffle truncation_strategy tuner_backend use_hf use_rslora val_dataset
    """


def plan(recipe: dict[str, Any], path: object, otr: OTRConfig | None) -> TrainingPlan:
    keys = Keys(recipe, path, WITHOUT_EFFECT)
    keys.cannot("deepspeed fsdp fsdp_config sequence_parallel_size", SEVERAL_GPUS)
    keys.cannot("rlhf_type teacher_model", OTHER_TRAININGS)
    keys.cannot(
        "use_galore lisa_activated_layers optimizer target_regex target_parameters use_swift_lora", NOT_MODELLED
    )
    keys.cannot("freeze_parameters freeze_parameters_ratio trainable_parameters torch_compile", NOT_MODELLED)
    kind = keys.get("tuner_type", keys.get("train_type", "lora"))
    if kind not in ("lora", "full"):
        raise keys.unclear(f"`tuner_type: {kind}`: only lora and full are modelled")
    method, bits = keys.get("quant_method"), keys.get("quant_bits")
    if method not in (None, "bnb") or bits not in (None, 4):
        raise keys.unclear(
            f"`quant_method: {method}` with `quant_bits: {bits}`: only 4-bit weights of bnb are modelled"
        )
    dtype, bf16, fp16 = keys.get("torch_dtype"), keys.get("bf16"), keys.get("fp16")
    autocast: Any = "bfloat16" if bf16 else "float16" if fp16 else None if False in (bf16, fp16) else "by weights"
    sequence = keys.number("max_length", 1) if "max_length" in recipe else 0
    rows = keys.number("per_device_train_batch_size", 1)
    is_packed = keys.flag("packing")
    if is_packed or keys.flag("padding_free"):
        if not sequence:
            raise keys.unclear("packing without max_length: set it")
        sequence, rows = keys.number("packing_length", sequence) * rows, 1
        is_packed = True
    return TrainingPlan(
        host="swift",
        model=str(keys.get("model", "")),
        sequence=sequence,
        rows=rows,
        is_packed=is_packed,
        accumulation=keys.number("gradient_accumulation_steps", max(1, math.ceil(16 / rows))),
        weights=dtype,
        autocast=autocast,
        adapter=_adapter(keys) if kind == "lora" else None,
        four_bit=_four_bit(keys) if bits else None,
        checkpointing=keys.checkpointing(default_reentrant=True),
        attention=attention(keys.get("attn_impl", "sdpa")),
        optimiser=keys.optimiser("optim", "adamw_torch_fused"),
        liger=keys.liger("use_liger_kernel", otr),
        otr=otr,
        not_counted=keys.not_counted(),
    )


def _four_bit(keys: Keys) -> FourBit:
    kind: Any = keys.get("bnb_4bit_quant_type", "nf4")
    return FourBit(kind, keys.flag("bnb_4bit_use_double_quant", True))


def _adapter(keys: Keys) -> Adapter:
    given = keys.names("target_modules") or ("all-linear",)
    if any(name in ("all-embedding", "all-norm") for name in keys.names("modules_to_save")):
        raise keys.unclear("`modules_to_save` with all-embedding or all-norm is not modelled: name the modules")
    return Adapter(
        r=keys.number("lora_rank", 8),
        targets="all-linear" if given == ("all-linear",) else given,
        dropout=float(keys.get("lora_dropout", 0.05)),
        modules_to_save=keys.names("modules_to_save"),
        dora=keys.flag("use_dora"),
        dtype=keys.get("lora_dtype", "float32"),
    )
