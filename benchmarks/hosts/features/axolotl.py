"""Axolotl's features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.hosts.axolotl import DATASET, Axolotl
from benchmarks.hosts.driver import HostDriver
from benchmarks.hosts.features.feature import FULL, TRITON_INTERPRETER, Feature
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.features.training_arguments import WORSE_AND_WORSE

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {"adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_target_modules": ["q_proj", "v_proj"]}
EVALUATED = {"val_set_size": 0.2, "eval_steps": 2}
PACKED = {"sample_packing": True, "pad_to_sequence_len": True, "sequence_len": 128}
LIGER = ["axolotl.integrations.liger.LigerPlugin"]


def chat(**more: Any) -> dict[str, Any]:
    return {"datasets": [{"path": "{folder}/chats.jsonl", "ds_type": "json", "type": "chat_template"} | more]}


def pairs(name: str, **more: Any) -> dict[str, Any]:
    return {"path": f"{{folder}}/{name}.jsonl", "ds_type": "json", "type": DATASET} | more


FEATURES = {
    FULL: Feature({}),
    "from random weights": Feature({"reinit_weights": True}),
    "frozen layers": Feature({"unfrozen_parameters": ["model.layers.1.*", "lm_head.*"]}),
    "new tokens, embeddings resized": Feature(
        {"tokens": ["<think>", "</think>"], "resize_token_embeddings_to_32x": True}, silent=True
    ),
    # LoRA
    "LoRA": Feature(LORA),
    "LoRA on every linear layer": Feature({"lora_target_modules": None, "lora_target_linear": True}, on="LoRA"),
    "LoRA with dropout": Feature({"lora_dropout": 0.2}, on="LoRA"),
    "LoRA on the head": Feature({"lora_target_modules": ["q_proj", "lm_head"]}, on="LoRA"),
    "LoRA on expert weights (target_parameters)": Feature(
        {"base_model": "{folder}/experts", "lora_target_parameters": ["mlp.experts.gate_up_proj"]}, on="LoRA"
    ),
    "LoRA, head and embedding trained whole": Feature({"lora_modules_to_save": ["embed_tokens", "lm_head"]}, on="LoRA"),
    "LoRA, single tokens' embeddings trained": Feature({"peft_trainable_token_indices": [31, 32, 33]}, on="LoRA"),
    "LoRA, continued from a saved adapter": Feature(
        {"lora_model_dir": "{before}"}, on="LoRA", before={"lora_model_dir": None, "max_steps": 2}
    ),
    "LoRA, ranks by layer": Feature(
        {"lora_rank_pattern": {"v_proj": 2}, "lora_alpha_pattern": {"v_proj": 32}}, on="LoRA"
    ),
    "rsLoRA": Feature({"peft_use_rslora": True}, on="LoRA"),
    "DoRA": Feature({"peft_use_dora": True}, on="LoRA"),
    "LoRA+": Feature({"loraplus_lr_ratio": 16}, on="LoRA"),
    "PiSSA": Feature({"peft_init_lora_weights": "pissa"}, on="LoRA"),
    "OLoRA": Feature({"peft_init_lora_weights": "olora"}, on="LoRA"),
    "LoftQ": Feature({"peft": {"loftq_config": {"loftq_bits": 4}}}, on="LoRA"),
    "ReLoRA": Feature({"relora": True, "jagged_restart_steps": 2, "jagged_restart_warmup_steps": 1}, on="LoRA"),
    "MoRA": Feature(
        {"plugins": ["axolotl.integrations.mora.MoraPlugin"], "adapter": "mora", "mora": {"use_mora": True}}, on="LoRA"
    ),
    "QLoRA, nf4": Feature(
        {"adapter": "qlora", "load_in_4bit": True, "bnb_config_kwargs": {"bnb_4bit_use_double_quant": False}}, on="LoRA"
    ),
    "QLoRA, fp4": Feature({"bnb_config_kwargs": {"bnb_4bit_quant_type": "fp4"}}, on="QLoRA, nf4"),
    "QLoRA, double quantisation": Feature({"bnb_config_kwargs": {"bnb_4bit_use_double_quant": True}}, on="QLoRA, nf4"),
    "QLoRA with DoRA": Feature({"peft_use_dora": True}, on="QLoRA, nf4"),
    "QLoRA, head trained whole": Feature({"lora_modules_to_save": ["lm_head"]}, on="QLoRA, nf4"),
    "LoRA on 8-bit weights": Feature({"load_in_8bit": True}, on="LoRA", precision="float16"),
    "Spectrum": Feature(
        {"plugins": ["axolotl.integrations.spectrum.SpectrumPlugin"], "spectrum_model_name": "spectrum"}
    ),
    "QAT": Feature({"qat": {"weight_dtype": "int8", "group_size": 32}}),
    # precision and compilation
    "bf16, mixed": Feature({"bf16": True}, precision="bfloat16"),
    "bf16, weights too": Feature({"bfloat16": True}, precision="bfloat16"),
    "QLoRA in bf16": Feature({"bf16": True}, on="QLoRA, nf4", precision="bfloat16"),
    "fp16": Feature({"fp16": True}, precision="float16"),
    "fp8": Feature({"fp8": True, "bf16": True, "torch_compile": True}, precision="bfloat16"),
    "torch.compile": Feature({"torch_compile": True}, silent=True),
    "torch.compile, LoRA": Feature({"torch_compile": True}, on="LoRA", silent=True),
    # attention and kernels
    "eager attention": Feature({"attn_implementation": "eager"}, silent=True),
    "sdpa attention": Feature({"attn_implementation": "sdpa"}, silent=True),
    "flash attention": Feature({"attn_implementation": "flash_attention_2"}),
    "flex attention": Feature({"attn_implementation": "flex_attention", "torch_compile": True}, silent=True),
    "xformers attention": Feature({"attn_implementation": "xformers"}, silent=True),
    "Liger: norm, rope, SwiGLU": Feature(
        {"plugins": LIGER, "liger_rope": True, "liger_rms_norm": True, "liger_glu_activation": True, "max_steps": 2},
        silent=True,
        environment=TRITON_INTERPRETER,
    ),
    "kernels from the Hub": Feature({"use_kernels": True}, silent=True),
    "Axolotl's LoRA kernels": Feature(
        {"lora_mlp_kernel": True, "lora_qkv_kernel": True, "lora_o_kernel": True, "max_steps": 2},
        on="LoRA on every linear layer",
        silent=True,
        environment=TRITON_INTERPRETER,
    ),
    "tiled MLP": Feature({"tiled_mlp": True, "tiled_mlp_num_shards": 2}, silent=True),
    # memory
    "gradient checkpointing, not reentrant": Feature(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}, silent=True
    ),
    "gradient checkpointing, reentrant": Feature(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}, silent=True
    ),
    "gradient checkpointing, LoRA": Feature(
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        on="LoRA with dropout",
        silent=True,
    ),
    "gradient checkpointing, QLoRA": Feature({"gradient_checkpointing": True}, on="QLoRA, nf4", silent=True),
    "gradient checkpointing, offloaded": Feature({"gradient_checkpointing": "offload"}, silent=True),
    "selective checkpointing": Feature({"gradient_checkpointing": True, "selective_checkpointing": True}, silent=True),
    "activation offloading": Feature({"gradient_checkpointing": True, "activation_offloading": True}, silent=True),
    "layer offloading": Feature({"layer_offloading": True}, on="LoRA", silent=True),
    "cache emptied every few steps": Feature({"torch_empty_cache_steps": 2, "gc_collect_steps": 1}, silent=True),
    # batches
    "batch size 1": Feature({"micro_batch_size": 1}),
    "gradient accumulation": Feature({"gradient_accumulation_steps": 3}),
    "gradient accumulation, logged every other step": Feature(
        {"gradient_accumulation_steps": 3, "logging_steps": 2, "max_steps": 6}
    ),
    "packing": Feature(PACKED),
    "packing, LoRA": Feature(PACKED, on="LoRA"),
    "packing, not padded": Feature({"pad_to_sequence_len": False}, on="packing", silent=True),
    "packing, in order": Feature({"sample_packing_sequentially": True}, on="packing"),
    "packing and accumulation": Feature({"gradient_accumulation_steps": 2, "micro_batch_size": 1}, on="packing"),
    "packing, evaluated packed": Feature(EVALUATED | {"eval_sample_packing": True}, on="packing"),
    "batch flattening": Feature({"batch_flattening": True, "attn_implementation": "flash_attention_2"}),
    "padded to a multiple": Feature({"pad_to_multiple_of": 16}, silent=True),
    "padded to one length": Feature({"pad_to_sequence_len": True}, silent=True),
    "grouped by length": Feature({"group_by_length": True}),
    "sequential order": Feature({"curriculum_sampling": True}),
    "batch size found automatically": Feature({"auto_find_batch_size": True}, silent=True),
    "last batch dropped": Feature({"dataloader_drop_last": True}, silent=True),
    "dataloader workers": Feature({"dataloader_num_workers": 2, "dataloader_prefetch_factor": 2}, silent=True),
    "long samples cut": Feature({"datasets": [pairs("long")], "excess_length_strategy": "truncate"}),
    "long samples dropped": Feature({"datasets": [pairs("long")], "excess_length_strategy": "drop"}),
    "streaming": Feature({"streaming": True, "num_epochs": 1}, silent=True),
    "epochs instead of steps": Feature({"max_steps": None, "num_epochs": 2, "micro_batch_size": 16}),
    # data
    "Alpaca": Feature(
        {"datasets": [{"path": "{folder}/alpaca.jsonl", "ds_type": "json", "type": "alpaca"}], "sequence_len": 512}
    ),
    "chat template": Feature(chat()),
    "chat template, roles to train": Feature(chat(roles_to_train=["user", "assistant"], train_on_eos="all")),
    "chat template, only the last turn": Feature(chat(roles_to_train=[], train_on_eos="last")),
    "ShareGPT conversations": Feature(
        {
            "datasets": [
                {
                    "path": "{folder}/sharegpt.jsonl",
                    "ds_type": "json",
                    "type": "chat_template",
                    "field_messages": "conversations",
                    "message_property_mappings": {"role": "from", "content": "value"},
                }
            ]
        }
    ),
    "system prompt": Feature(chat(path="{folder}/system.jsonl")),
    "prompts trained too": Feature({"train_on_inputs": True}),
    "plain text": Feature({"datasets": [{"path": "{folder}/text.jsonl", "ds_type": "json", "type": "completion"}]}),
    "pre-tokenised": Feature({"datasets": [{"path": "{folder}/tokens.jsonl", "ds_type": "json", "type": None}]}),
    "several datasets": Feature({"datasets": [pairs("pairs"), pairs("long"), *chat()["datasets"]]}),
    "duplicates removed": Feature({"datasets": [pairs("twice")], "dataset_exact_deduplication": True}),
    # optimisers
    "AdamW, fused": Feature({"optimizer": "adamw_torch_fused"}, silent=True),
    "AdamW, 8-bit": Feature({"optimizer": "adamw_bnb_8bit"}),
    "AdamW, paged 8-bit": Feature({"optimizer": "paged_adamw_8bit"}),
    "AdamW, paged 32-bit": Feature({"optimizer": "paged_adamw_32bit"}),
    "AdamW, torchao 8-bit": Feature({"optimizer": "adamw_torch_8bit"}),
    "AdamW, torchao 4-bit": Feature({"optimizer": "adamw_torch_4bit"}),
    "Adafactor": Feature({"optimizer": "adafactor"}),
    "SGD": Feature({"optimizer": "sgd", "learning_rate": 0.5}),
    "RMSprop": Feature({"optimizer": "rmsprop"}),
    "Lion, 8-bit": Feature({"optimizer": "lion_8bit"}),
    "Lion, 32-bit": Feature({"optimizer": "lion_32bit"}),
    "AdEMAMix": Feature({"optimizer": "ademamix"}),
    "Muon": Feature({"optimizer": "muon"}),
    "Dion": Feature({"optimizer": "dion", "dion_lr": 0.01, "dion_momentum": 0.95}),
    "SinkGD": Feature({"optimizer": "sinkgd"}),
    "PoLoRA": Feature({"optimizer": "polora"}, on="LoRA"),
    "AdamC": Feature({"optimizer": "adamc", "weight_decay": 0.1}),
    "ADOPT": Feature({"optimizer": "adopt_adamw"}),
    "CAME": Feature({"optimizer": "came_pytorch", "adam_beta3": 0.9999, "adam_epsilon2": 1e-16}),
    "Optimi AdamW": Feature({"optimizer": "optimi_adamw"}),
    "GaLore": Feature({"optimizer": "galore_adamw", "optim_target_modules": ["mlp"]}),
    "Q-GaLore": Feature({"optimizer": "q_galore_adamw8bit", "optim_target_modules": ["mlp"], "bf16": True}),
    "APOLLO": Feature({"optimizer": "apollo_adamw", "optim_target_modules": ["mlp"]}),
    "Grokfast": Feature({"plugins": ["axolotl.integrations.grokfast.GrokfastPlugin"]}),
    "schedule-free AdamW": Feature({"optimizer": "schedule_free_adamw"}),
    "betas and epsilon": Feature({"adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-4}),
    "learning rate of the embedding": Feature({"embedding_lr_scale": 0.1}),
    "learning rates by group": Feature({"lr_groups": [{"name": "mlp", "modules": ["mlp"], "lr": 0.001}]}),
    # schedules and regularisation
    "constant with warm-up": Feature({"lr_scheduler": "constant_with_warmup", "warmup_steps": 2}),
    "linear with warm-up": Feature({"lr_scheduler": "linear", "warmup_steps": 2}),
    "cosine": Feature({"lr_scheduler": "cosine"}),
    "cosine, warm-up ratio": Feature({"lr_scheduler": "cosine", "warmup_ratio": 0.5}),
    "cosine with a minimum": Feature({"lr_scheduler": "cosine", "cosine_min_lr_ratio": 0.5}),
    "cosine with restarts": Feature({"lr_scheduler": "cosine_with_restarts"}),
    "polynomial": Feature({"lr_scheduler": "polynomial"}),
    "one cycle": Feature({"lr_scheduler": "one_cycle"}),
    "REX": Feature({"lr_scheduler": "rex"}),
    "NEFTune": Feature({"neftune_noise_alpha": 5}),
    "NEFTune, LoRA": Feature({"neftune_noise_alpha": 5}, on="LoRA"),
    "weight decay": Feature({"weight_decay": 0.1}),
    "clipping off": Feature({"max_grad_norm": 0.0}),
    "clipping, stronger": Feature({"max_grad_norm": 0.1}),
    # evaluation, checkpoints, logs
    "evaluation": Feature(EVALUATED),
    "evaluation on start": Feature({"val_set_size": 0.2, "eval_strategy": "epoch"}),
    "evaluation on its own data": Feature(
        {"test_datasets": [pairs("held-out", split="train")], "eval_steps": 2}, silent=True
    ),
    "evaluation with metrics": Feature(
        EVALUATED | {"do_causal_lm_eval": True, "eval_causal_lm_metrics": ["perplexity"]}
    ),
    "best model loaded at the end": Feature(
        EVALUATED | {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True},
        on="evaluation",
        silent=True,
    ),
    "early stopping": Feature(EVALUATED | WORSE_AND_WORSE | {"early_stopping_patience": 1}),
    "resumed": Feature(
        {"resume_from_checkpoint": "{before}/checkpoint-2"},
        before={"resume_from_checkpoint": None, "max_steps": 2, "learning_rate": 0.02, "save_steps": 2},
    ),
    "resumed, LoRA": Feature(
        {"resume_from_checkpoint": "{before}/checkpoint-2"},
        on="LoRA",
        before={"resume_from_checkpoint": None, "max_steps": 2, "learning_rate": 0.02, "save_steps": 2},
    ),
    "only the model saved": Feature({"save_steps": 2, "save_only_model": True}, silent=True),
    "tokens per second": Feature({"include_tkps": True}, silent=True),
    "TensorBoard": Feature({"use_tensorboard": True}, silent=True),
    "loss watchdog": Feature({"loss_watchdog_threshold": 50.0, "loss_watchdog_patience": 2}, silent=True),
    "profiler": Feature({"profiler_steps": 2}, silent=True),
    "samples generated": Feature(EVALUATED | {"generate_samples": True, "num_generation_samples": 1}),
    # models
    "tied embeddings": Feature({"base_model": "{folder}/tied"}),
    "head with a bias": Feature({"base_model": "{folder}/biased"}),
    "Qwen 3": Feature({"base_model": "{folder}/qwen3"}),
    "experts, no balancing loss": Feature({"base_model": "{folder}/experts"}),
    "experts with balancing loss": Feature({"base_model": "{folder}/balanced-experts"}),
    "experts with balancing loss, accumulated": Feature(
        {"base_model": "{folder}/balanced-experts", "gradient_accumulation_steps": 2}
    ),
    "softcapped logits (Gemma 2)": Feature({"base_model": "{folder}/gemma2"}),
    "scaled logits (Granite)": Feature({"base_model": "{folder}/granite"}),
    "scaled logits (Cohere)": Feature({"base_model": "{folder}/cohere"}),
    "state space (Mamba)": Feature({"base_model": "{folder}/mamba", "attn_implementation": "eager"}),
    "sliding window (Mistral)": Feature({"base_model": "{folder}/mistral"}),
    "longer RoPE": Feature(
        {"overrides_of_model_config": {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}}
    ),
    # several devices
    "DeepSpeed ZeRO": Feature({"deepspeed": "{folder}/deepspeed.json"}),
    "FSDP": Feature({"fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}),
    "sequence or context parallelism": Feature({"context_parallel_size": 2}),
    "tensor parallelism": Feature({"tensor_parallel_size": 2}),
    # something else computes the loss
    "label smoothing": Feature({"label_smoothing_factor": 0.1}),
    "EAFT": Feature({"use_eaft": True}),
    "fused cross entropy of Liger": Feature({"plugins": LIGER, "liger_fused_linear_cross_entropy": True}),
    "cross entropy of Liger": Feature({"plugins": LIGER, "liger_cross_entropy": True}),
    "token scaling of Liger": Feature(
        {"plugins": LIGER, "liger_fused_linear_cross_entropy": True, "liger_use_token_scaling": True}
    ),
    "Cut Cross Entropy": Feature(
        {
            "plugins": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"],
            "cut_cross_entropy": True,
            "bf16": "auto",
        }
    ),
    "chunked cross entropy": Feature({"chunked_cross_entropy": True}),
    "distillation": Feature({"plugins": ["axolotl.integrations.kd.KDPlugin"], "kd_trainer": True}),
    "diffusion": Feature({"plugins": ["axolotl.integrations.diffusion.DiffusionPlugin"]}),
    "preferences or RL": Feature({"rl": "dpo"}),
    "reward model": Feature({"reward_model": True}),
    "custom trainer": Feature({"trainer_cls": "transformers.Trainer"}),
}


class Driver(Axolotl):
    """Saves the trainer's state at the end, which holds the log."""

    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        saved: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1000, "save_first_step": False, "max_steps": 4}
        return super().settings(name, **saved | changes)


class AxolotlHost(Host):
    title = "Axolotl"
    package = "axolotl"
    versions: ClassVar = {"0.19.0": "axolotl"}
    features = FEATURES
    Driver = Driver

    def driver(self, folder: Path) -> HostDriver:
        driver = super().driver(folder)
        (folder / "model_snr_results").mkdir()
        ratios = {f"model.layers.{i}.mlp.up_proj.weight": {"type": "mlp.up_proj", "snr": 1.0 + i} for i in range(2)}
        (folder / "model_snr_results" / "snr_results_spectrum.json").write_text(json.dumps(ratios))
        return driver

    def start(self) -> None:
        import axolotl.common.datasets
        import axolotl.core.builders.causal
        import axolotl.loaders.model
        import axolotl.train  # noqa: F401

    def train(self, recipe: Path) -> Log:
        from axolotl.cli.train import do_cli

        sys.argv = ["axolotl", str(recipe)]
        do_cli(str(recipe))
        return log_in(recipe.with_suffix(""))


def log_in(output: Path) -> Log:
    """The log history of the last checkpoint in the folder."""
    states = sorted(output.rglob("trainer_state.json"), key=lambda path: path.stat().st_mtime)
    log: Log = json.loads(states[-1].read_text())["log_history"]
    return log


HOST = AxolotlHost()
