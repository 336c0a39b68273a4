"""Features by TrainingArguments of transformers: the same keys in Trainer, LLaMA-Factory, TRL and ms-swift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.hosts.features.feature import Feature

OPTIMISERS = {
    "AdamW, 8-bit": "adamw_8bit",
    "AdamW, paged 8-bit": "paged_adamw_8bit",
    "AdamW, torchao 8-bit": "adamw_torch_8bit",
    "Adafactor": "adafactor",
    "RMSprop": "rmsprop",
    "Adagrad": "adagrad",
    "Lion, 8-bit": "lion_8bit",
    "Lion, 32-bit": "lion_32bit",
    "AdEMAMix": "ademamix",
    "StableAdamW": "stable_adamw",
    "LOMO": "lomo",
    "GrokAdamW": "grokadamw",
    "schedule-free AdamW": "schedule_free_adamw",
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant with warm-up": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2},
    "linear with warm-up": {"lr_scheduler_type": "linear", "warmup_steps": 2},
    "cosine": {"lr_scheduler_type": "cosine"},
    "cosine with a minimum": {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.5},
    },
    "cosine with restarts": {"lr_scheduler_type": "cosine_with_restarts"},
    "polynomial": {"lr_scheduler_type": "polynomial"},
    "inverse square root": {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 1},
    "warm-up, stable, decay": {
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": 1,
        "lr_scheduler_kwargs": {"num_decay_steps": 2},
    },
}
# With a metric that counts a lower loss as worse, early stopping ends training at the second evaluation.
WORSE_AND_WORSE = {
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
}


def checkpointing(*, reentrant: bool) -> dict[str, Any]:
    return {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}


def common(evaluated: Mapping[str, Any]) -> dict[str, Feature]:
    """`evaluated`: the host's keys for an evaluation every two steps, on data that it splits off."""
    saved = {"save_strategy": "steps", "save_steps": 2}
    features = {name: Feature({"optim": optim}) for name, optim in OPTIMISERS.items()}
    features |= {name: Feature(keys) for name, keys in SCHEDULES.items()}
    return features | {
        "reduce on plateau": Feature(
            {**evaluated, "eval_steps": 1, "lr_scheduler_type": "reduce_lr_on_plateau"}
            | {"lr_scheduler_kwargs": {"patience": 0, "threshold": 0.9}}
        ),
        "AdamW, paged 32-bit": Feature({"optim": "paged_adamw_32bit"}, silent=True),
        "AdamW, fused": Feature({"optim": "adamw_torch_fused"}, silent=True),
        "SGD": Feature({"optim": "sgd", "learning_rate": 0.5}),
        "GaLore": Feature({"optim": "galore_adamw", "optim_target_modules": ["mlp"]}),
        "APOLLO": Feature({"optim": "apollo_adamw", "optim_target_modules": ["mlp"]}),
        "betas and epsilon": Feature({"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-4}),
        "NEFTune": Feature({"neftune_noise_alpha": 5}),
        "NEFTune, LoRA": Feature({"neftune_noise_alpha": 5}, on="LoRA"),
        "weight decay": Feature({"weight_decay": 0.3}),
        "clipping off": Feature({"max_grad_norm": 0.0}),
        "clipping, stronger": Feature({"max_grad_norm": 0.1}),
        "bf16, mixed": Feature({"bf16": True}, precision="bfloat16"),
        "fp16": Feature({"fp16": True}, precision="float16"),
        "torch.compile": Feature({"torch_compile": True}, silent=True),
        "torch.compile, LoRA": Feature({"torch_compile": True}, on="LoRA", silent=True),
        "gradient checkpointing, not reentrant": Feature(checkpointing(reentrant=False), silent=True),
        "gradient checkpointing, reentrant": Feature(checkpointing(reentrant=True), silent=True),
        "gradient checkpointing, LoRA": Feature(checkpointing(reentrant=False), on="LoRA with dropout", silent=True),
        "gradient checkpointing, QLoRA": Feature(checkpointing(reentrant=False), on="QLoRA, nf4", silent=True),
        "cache emptied every few steps": Feature({"torch_empty_cache_steps": 2}, silent=True),
        "batch size 1": Feature({"per_device_train_batch_size": 1}),
        "gradient accumulation": Feature({"gradient_accumulation_steps": 3}),
        "gradient accumulation, logged every other step": Feature(
            {"gradient_accumulation_steps": 3, "logging_steps": 2, "max_steps": 6}
        ),
        "batch size found automatically": Feature({"auto_find_batch_size": True}, silent=True),
        "last batch dropped": Feature({"dataloader_drop_last": True}, silent=True),
        "dataloader workers": Feature({"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2}, silent=True),
        "epochs instead of steps": Feature({"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 32}),
        "evaluation": Feature(evaluated),
        "evaluation on start": Feature({**evaluated, "eval_on_start": True}, on="evaluation"),
        "evaluation every epoch": Feature(
            {**evaluated, "eval_strategy": "epoch", "max_steps": -1, "num_train_epochs": 2}
            | {"per_device_train_batch_size": 32}
        ),
        "best model loaded at the end": Feature(
            {**evaluated, **saved, "load_best_model_at_end": True}, on="evaluation", silent=True
        ),
        "resumed": Feature(
            {"resume_from_checkpoint": "{before}/checkpoint-2"},
            before=saved | {"resume_from_checkpoint": None, "max_steps": 2, "learning_rate": 0.02},
        ),
        "resumed, LoRA": Feature(
            {"resume_from_checkpoint": "{before}/checkpoint-2"},
            on="LoRA",
            before=saved | {"resume_from_checkpoint": None, "max_steps": 2, "learning_rate": 0.02},
        ),
        "only the model saved": Feature(saved | {"save_only_model": True}, silent=True),
        "input tokens counted": Feature({"include_num_input_tokens_seen": True}, silent=True),
        "tokens averaged over devices": Feature({"average_tokens_across_devices": True}, silent=True),
        "tokens not averaged over devices": Feature(
            {"average_tokens_across_devices": False, "gradient_accumulation_steps": 2}
        ),
        "memory metrics": Feature({"skip_memory_metrics": False}, silent=True),
        "NaN filter off": Feature({"logging_nan_inf_filter": False}, silent=True),
        "full determinism": Feature({"full_determinism": True}, silent=True),
        "split batches": Feature({"accelerator_config": {"split_batches": True}}, silent=True),
        "label smoothing": Feature({"label_smoothing_factor": 0.1}),
        "DeepSpeed ZeRO": Feature({"deepspeed": "{folder}/deepspeed.json"}),
        "FSDP": Feature({"fsdp": "full_shard auto_wrap"}),
    }
