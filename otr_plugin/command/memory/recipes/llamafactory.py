"""LLaMA-Factory's recipes. The defaults are those of 0.9.5."""

from __future__ import annotations

from typing import Any

from otr_plugin.command.memory.plan import Adapter, Attention, Checkpointing, FourBit, TrainingPlan
from otr_plugin.command.memory.recipes.keys import NOT_MODELLED, OTHER_TRAININGS, SEVERAL_GPUS, Keys
from otr_plugin.config import OTRConfig

WITHOUT_EFFECT = """
    buffer_size cache_dir compute_accuracy dataset dataset_dir default_system enable_thinking eval_dataset
    loraplus_lr_ratio low_cpu_mem_usage mask_history max_samples media_dir mix_strategy overwrite_cache plot_loss
    predict_with_generate preprocessing_batch_size preprocessing_num_workers quantization_method ray_num_workers
    ray_run_name ray_storage_path split_special_tokens streaming swanlab_project template tokenized_path
    tool_format train_on_prompt trust_remote_code use_fast_tokenizer use_rslora use_swanlab val_size
    """
ATTENTION: dict[str, Attention] = {"fa2": "flash", "fa3": "flash", "disabled": "eager"}
QUANTISED = "only 4-bit weights of bitsandbytes are modelled"


def plan(recipe: dict[str, Any], path: object, otr: OTRConfig | None) -> TrainingPlan:
    keys = Keys(recipe, path, WITHOUT_EFFECT)
    keys.cannot("deepspeed fsdp fsdp_config", SEVERAL_GPUS)
    keys.cannot("use_badam use_galore use_apollo use_muon use_adam_mini use_unsloth use_kt use_ray", NOT_MODELLED)
    keys.cannot("mixture_of_depths use_llama_pro moe_aux_loss_coef shift_attn fp8 torch_compile", NOT_MODELLED)
    stage, kind = keys.get("stage", "sft"), keys.get("finetuning_type", "lora")
    if stage not in ("sft", "pt"):
        raise keys.unclear(f"`stage: {stage}`: {OTHER_TRAININGS}")
    if kind not in ("lora", "full"):
        raise keys.unclear(f"`finetuning_type: {kind}`: only lora and full are modelled")
    bits = keys.get("quantization_bit")
    if bits not in (None, 4):
        raise keys.unclear(f"`quantization_bit: {bits}`: {QUANTISED}")
    is_pure, is_bf16, is_fp16 = keys.flag("pure_bf16"), keys.flag("bf16"), keys.flag("fp16")
    autocast: Any = "bfloat16" if is_bf16 else "float16" if is_fp16 else None
    is_offloaded = keys.flag("use_unsloth_gc")
    checkpointing: Checkpointing = "reentrant" if keys.flag("use_reentrant_gc", True) else "not reentrant"
    return TrainingPlan(
        host="llamafactory",
        model=str(keys.get("model_name_or_path", "")),
        sequence=keys.number("cutoff_len", 2048),
        rows=keys.number("per_device_train_batch_size", 8),
        is_packed=keys.flag("neat_packing"),
        accumulation=keys.number("gradient_accumulation_steps", 1),
        weights="bfloat16" if is_pure else autocast,
        autocast=autocast,
        adapter=_adapter(keys) if kind == "lora" else None,
        four_bit=FourBit(double=keys.flag("double_quantization", True)) if bits else None,
        checkpointing="none" if keys.flag("disable_gradient_checkpointing") else checkpointing,
        is_offloaded=is_offloaded,
        attention=ATTENTION.get(str(keys.get("flash_attn", "auto")), "sdpa"),
        optimiser=keys.optimiser("optim", "adamw_torch_fused"),
        liger=keys.liger("enable_liger_kernel", otr),
        otr=otr,
        float32_modules=("norm",) if keys.flag("upcast_layernorm") else (),
        trained_in_float32=not is_pure,
        not_counted=keys.not_counted(),
    )


def _adapter(keys: Keys) -> Adapter:
    targets = keys.names("lora_target") or ("all",)
    return Adapter(
        r=keys.number("lora_rank", 8),
        targets="all-linear" if targets == ("all",) else targets,
        dropout=float(keys.get("lora_dropout", 0.0)),
        modules_to_save=keys.names("additional_target"),
        dora=keys.flag("use_dora"),
    )
