"""Axolotl's recipes. The defaults are those of 0.19.0."""

from __future__ import annotations

import re
from typing import Any

from otr_plugin.command.memory.plan import Adapter, Attention, Checkpointing, FourBit, Liger, TrainingPlan
from otr_plugin.command.memory.recipes.keys import EIGHT_BIT, NOT_MODELLED, OTHER_TRAININGS, SEVERAL_GPUS, Keys
from otr_plugin.config import OTRConfig

WITHOUT_EFFECT = """
    auto_resume_from_checkpoints axolotl_config_path base_model_config chat_template chat_template_jinja
    cosine_min_lr_ratio dataset_prepared_path dataset_processes datasets ddp_find_unused_parameters debug
    default_system_message early_stopping_patience eval_batch_size eval_max_new_tokens eval_sample_packing
    eval_sequence_len eval_table_size evals_per_epoch excess_length_strategy experimental_skip_move_to_device
    group_by_length hub_private_repo is_llama_derived_model is_mistral_derived_model is_qwen_derived_model
    lora_fan_in_fan_out lr_groups mlflow_experiment_name mlflow_tracking_uri model_type num_epochs
    pad_to_sequence_len roles_to_train sample_packing_eff_est save_first_step saves_per_epoch
    shuffle_merged_datasets skip_prepare_dataset special_tokens strict test_datasets tokenizer_type
    tokenizer_use_fast total_num_tokens train_on_inputs trust_remote_code use_mlflow use_wandb val_set_size
    wandb_api_key wandb_entity wandb_log_model wandb_mode wandb_name wandb_project wandb_run_id wandb_watch
    """
FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention", "fa2", "xformers", "flex_attention", "sage")


def plan(recipe: dict[str, Any], path: object, otr: OTRConfig | None) -> TrainingPlan:
    keys = Keys(recipe, path, WITHOUT_EFFECT)
    keys.cannot("deepspeed fsdp fsdp_config tensor_parallel_size context_parallel_size dp_shard_size", SEVERAL_GPUS)
    keys.cannot("rl reward_model process_reward_model kd_trainer trainer_cls processor_type", OTHER_TRAININGS)
    keys.cannot("load_in_8bit", EIGHT_BIT)
    keys.cannot("gptq fp8 qat torch_compile relora lora_target_parameters use_ray", NOT_MODELLED)
    flash, attention = _attention(keys)
    sequence, rows = keys.number("sequence_len", 512), keys.number("micro_batch_size", 1)
    is_packed = keys.flag("sample_packing")
    if is_packed and flash and not keys.flag("multipack_real_batches"):
        sequence, rows = sequence * rows, 1  # Axolotl lays the rows of a micro-batch one after the other
    dtype: Any = "bfloat16"
    keys.get("bf16")
    bf16 = recipe.get("bf16", "auto")
    if not bf16 or keys.flag("fp16") or keys.flag("float16"):
        dtype = "float16" if keys.flag("fp16") or keys.flag("float16") else "float32"
        dtype = "bfloat16" if keys.flag("bfloat16") else dtype
    is_mixed = (bool(bf16) or keys.flag("fp16")) and dtype != "float32"
    adapter, four_bit = _adapter(keys), keys.flag("load_in_4bit")
    checkpointing, is_offloaded = _checkpointing(keys)
    trained = keys.names("unfrozen_parameters")
    if any(re.search(r"\[\d*:\d*\]$", name) for name in trained):
        raise keys.unclear("`unfrozen_parameters` with a range of rows is not modelled")
    keys.get("flash_attention")
    return TrainingPlan(
        host="axolotl",
        model=str(keys.get("base_model", "")),
        sequence=sequence,
        rows=rows,
        is_packed=is_packed,
        accumulation=keys.number("gradient_accumulation_steps", 1),
        weights=dtype,
        autocast=dtype if is_mixed else None,
        adapter=adapter,
        four_bit=FourBit() if four_bit else None,
        checkpointing=checkpointing,
        is_offloaded=is_offloaded,
        attention=attention,
        optimiser=keys.optimiser("optimizer", "adamw_torch_fused"),
        liger=_liger(keys),
        otr=otr,
        # Without an adapter and without FlashAttention, Axolotl leaves these modules in float32.
        float32_modules=() if adapter is not None or flash else ("norm", "embed_tokens", "lm_head"),
        trained=tuple(name.replace(".", r"\.") for name in trained),  # as Axolotl reads its patterns
        new_tokens=len(keys.get("tokens", ())),
        not_counted=keys.not_counted(),
    )


def _attention(keys: Keys) -> tuple[bool, Attention]:
    chosen = str(keys.get("attn_implementation", ""))
    names = ("flash_attention", "flex_attention", "xformers_attention", "sage_attention")
    flash = any(list(map(keys.flag, names))) or chosen.startswith(FLASH)
    if keys.flag("eager_attention") or chosen == "eager":
        return False, "eager"
    keys.flag("sdp_attention")
    return flash, "flash" if flash else "sdpa"


def _adapter(keys: Keys) -> Adapter | None:
    kind = keys.get("adapter")
    if kind is None:
        return None
    if kind not in ("lora", "qlora"):
        raise keys.unclear(f"`adapter: {kind}`: only lora and qlora are modelled")
    targets = keys.get("lora_target_modules")
    kernels = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")
    given = [keys.get(name) for name in kernels]
    if any(given) or (all(one is None for one in given) and not keys.get("trust_remote_code")):
        keys.notes.append(
            "lora_mlp_kernel, lora_qkv_kernel, lora_o_kernel: Axolotl's kernels for LoRA, on unless set to false; "
            "they take less than is counted"
        )
    return Adapter(
        r=keys.number("lora_r", 8),
        targets="all-linear" if keys.flag("lora_target_linear") else _targets(targets),
        dropout=float(keys.get("lora_dropout", 0.0)),
        modules_to_save=keys.names("lora_modules_to_save"),
        dora=keys.flag("peft_use_dora"),
        dtype="float32" if keys.flag("peft_autocast_adapter_dtype", True) else None,
    )


def _targets(given: Any) -> tuple[str, ...] | str | None:
    return given if given is None or isinstance(given, str) else tuple(given)


def _checkpointing(keys: Keys) -> tuple[Checkpointing, bool]:
    value = keys.get("gradient_checkpointing", False)
    kwargs = keys.get("gradient_checkpointing_kwargs", {})
    offloads = keys.get("activation_offloading", False)
    if offloads not in (False, "hidden_states", "legacy") or value in ("offload", "offload_disk"):
        raise keys.unclear("activation_offloading in this form is not modelled: `hidden_states` and `legacy` are")
    if not value:
        return "none", False
    # Axolotl's default, unless some parameters are unfrozen by name.
    default = "unfrozen_parameters" not in keys.recipe and not kwargs
    is_reentrant = bool(kwargs.get("use_reentrant", default))
    return ("reentrant" if is_reentrant else "not reentrant"), offloads is not False or value == "unsloth"


def _liger(keys: Keys) -> Liger:
    swiglu = keys.flag("liger_glu_activation") or keys.flag("liger_swiglu")
    return Liger(
        rope=keys.flag("liger_rope"),
        rms_norm=keys.flag("liger_rms_norm"),
        swiglu=swiglu,
        fused_loss=keys.flag("liger_fused_linear_cross_entropy"),
    )
