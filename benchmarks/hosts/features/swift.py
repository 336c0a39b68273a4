"""ms-swift's features."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.hosts.features.feature import FULL, TRITON_INTERPRETER, Feature
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.features.training_arguments import WORSE_AND_WORSE, common
from benchmarks.hosts.swift import Swift

EVALUATED = {"split_dataset_ratio": 0.2, "eval_strategy": "steps", "eval_steps": 2}
LORA = {"tuner_type": "lora", "lora_rank": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0}
CHATML = {"template": "chatml", "max_length": 512}  # its tags are longer than the sums
PACKED = {"packing": True, "per_device_train_batch_size": 1}


def model(name: str, kind: str) -> dict[str, Any]:
    return {"model": f"{{folder}}/{name}", "model_type": kind}


FEATURES = common(EVALUATED) | {
    FULL: Feature({}),
    "frozen layers": Feature({"freeze_parameters_ratio": 0.5}),
    "new tokens, embeddings resized": Feature({"new_special_tokens": ["<think>", "</think>"]}, silent=True),
    "LoRA": Feature(LORA),
    "LoRA on every linear layer": Feature({"target_modules": ["all-linear"]}, on="LoRA"),
    "LoRA with dropout": Feature({"lora_dropout": 0.2}, on="LoRA"),
    "LoRA on the head": Feature({"target_modules": ["q_proj", "lm_head"]}, on="LoRA"),
    "LoRA on expert weights (target_parameters)": Feature(
        model("experts", "mixtral") | {"target_parameters": ["mlp.experts.gate_up_proj"]}, on="LoRA"
    ),
    "LoRA, head and embedding trained whole": Feature({"modules_to_save": ["embed_tokens", "lm_head"]}, on="LoRA"),
    "LoRA, continued from a saved adapter": Feature(
        {"adapters": ["{before}/checkpoint-2"]},
        on="LoRA",
        before={"adapters": None, "max_steps": 2, "save_strategy": "steps", "save_steps": 2},
    ),
    "LoRA with biases": Feature({"lora_bias": "all"} | model("biased", "phi2"), on="LoRA"),
    "rsLoRA": Feature({"use_rslora": True}, on="LoRA"),
    "DoRA": Feature({"use_dora": True}, on="LoRA"),
    "LoRA+": Feature({"lorap_lr_ratio": 16.0}, on="LoRA"),
    "PiSSA": Feature({"init_weights": "pissa"}, on="LoRA"),
    "OLoRA": Feature({"init_weights": "olora"}, on="LoRA"),
    "LoRA-GA": Feature({"init_weights": "lora-ga"}, on="LoRA"),
    "AdaLoRA": Feature({"tuner_type": "adalora"}, on="LoRA"),
    "VeRA": Feature({"tuner_type": "vera", "target_modules": ["q_proj"]}, on="LoRA"),
    "BOFT": Feature({"tuner_type": "boft"}, on="LoRA"),
    "FourierFT": Feature({"tuner_type": "fourierft", "fourier_n_frequency": 20}, on="LoRA"),
    "ReFT": Feature({"tuner_type": "reft"}, on="LoRA"),
    "bottleneck adapter": Feature({"tuner_type": "adapter"}, on="LoRA"),
    "LongLoRA": Feature({"tuner_type": "longlora"}, on="LoRA"),
    "LLaMA Pro": Feature({"tuner_type": "llamapro", "llamapro_num_new_blocks": 2}),
    "LISA": Feature({"lisa_activated_layers": 1, "lisa_step_interval": 2}),
    "QLoRA, nf4": Feature(
        {"quant_method": "bnb", "quant_bits": 4, "bnb_4bit_compute_dtype": "float32"}
        | {"bnb_4bit_use_double_quant": False},
        on="LoRA",
    ),
    "QLoRA, fp4": Feature({"bnb_4bit_quant_type": "fp4"}, on="QLoRA, nf4"),
    "QLoRA, double quantisation": Feature({"bnb_4bit_use_double_quant": True}, on="QLoRA, nf4"),
    "QLoRA with DoRA": Feature({"use_dora": True}, on="QLoRA, nf4"),
    "QLoRA, head trained whole": Feature({"modules_to_save": ["lm_head"]}, on="QLoRA, nf4"),
    "QLoRA in bf16": Feature(
        {"bf16": True, "bnb_4bit_compute_dtype": "bfloat16"}, on="QLoRA, nf4", precision="bfloat16"
    ),
    "QLoRA in bf16, head trained whole": Feature(
        {"modules_to_save": ["lm_head"]}, on="QLoRA in bf16", precision="bfloat16"
    ),
    "LoRA on 8-bit weights": Feature({"quant_method": "bnb", "quant_bits": 8}, on="LoRA", precision="float16"),
    "bf16, weights too": Feature({"torch_dtype": "bfloat16", "bf16": True}, precision="bfloat16"),
    "eager attention": Feature({"attn_impl": "eager"}, silent=True),
    "sdpa attention": Feature({"attn_impl": "sdpa"}, silent=True),
    "flash attention": Feature({"attn_impl": "flash_attn"}),
    "flex attention": Feature({"attn_impl": "flex_attention"}, silent=True),
    "Liger as the host switches it on": Feature(
        {"use_liger_kernel": True, "max_steps": 2, "max_length": 16}, environment=TRITON_INTERPRETER, silent=True
    ),
    "activation offloading": Feature({"callbacks": ["activation_cpu_offload"]}, silent=True),
    "packing": Feature(PACKED),
    "packing, LoRA": Feature(PACKED, on="LoRA"),
    "packing by first fit": Feature({"packing_strategy": "sequential"}, on="packing"),
    "packing and accumulation": Feature({"gradient_accumulation_steps": 2}, on="packing"),
    "packing, evaluated packed": Feature(EVALUATED, on="packing"),
    "padding-free": Feature({"padding_free": True}, silent=True),
    "padded on the left": Feature({"padding_side": "left"}, silent=True),
    "grouped by length": Feature({"group_by_length": True}),
    "sequential order": Feature({"train_dataloader_shuffle": False, "dataset_shuffle": False}),
    "long samples cut": Feature(
        {"dataset": "{folder}/long-alpaca.jsonl", "max_length": 24, "truncation_strategy": "right"}
    ),
    "long samples dropped": Feature(
        {"dataset": "{folder}/long-alpaca.jsonl", "max_length": 24, "truncation_strategy": "delete"}
    ),
    "streaming": Feature({"streaming": True}),
    "whole sequences through the head": Feature({"use_logits_to_keep": False}, silent=True),
    "Alpaca": Feature({"dataset": "{folder}/alpaca.jsonl"}, silent=True),
    "chat template": Feature({"dataset": "{folder}/chats.jsonl"} | CHATML),
    "chat template, several turns": Feature(
        {"dataset": "{folder}/chats.jsonl", "template": "default", "max_length": 512}
    ),
    "chat template, only the last turn": Feature({"loss_scale": "last_round"}, on="chat template"),
    "ShareGPT conversations": Feature({"dataset": "{folder}/sharegpt.jsonl"} | CHATML),
    "system prompt": Feature({"dataset": "{folder}/system.jsonl"} | CHATML),
    "prompts trained too": Feature({"loss_scale": "all"}),
    "plain text": Feature({"dataset": "{folder}/text.jsonl", "columns": {"text": "response"}}),
    "several datasets": Feature({"dataset": ["{folder}/alpaca.jsonl", "{folder}/chats.jsonl#20"]}),
    "datasets interleaved": Feature(
        {"dataset": ["{folder}/alpaca.jsonl", "{folder}/chats.jsonl"], "interleave_prob": [0.3, 0.7]}
    ),
    "a mask within the answer": Feature({"loss_scale": "last_round+ignore_empty_think"}, silent=True),
    "thinking": Feature({"template": "qwen3", "enable_thinking": False, "max_length": 512}),
    "Muon": Feature({"optimizer": "muon"}),
    "Muon-clip": Feature({"optimizer": "muonclip"}),
    "GaLore": Feature({"use_galore": True, "galore_rank": 8}),
    "Q-GaLore": Feature({"use_galore": True, "galore_rank": 8, "galore_quantization": True}),
    "evaluation on its own data": Feature(
        {"val_dataset": "{folder}/held-out-alpaca.jsonl", "eval_strategy": "steps", "eval_steps": 2}, silent=True
    ),
    "evaluation with metrics": Feature(EVALUATED | {"eval_metric": "acc"}, on="evaluation", silent=True),
    "evaluation by generation": Feature(EVALUATED | {"predict_with_generate": True}, on="evaluation", silent=True),
    "early stopping": Feature(EVALUATED | WORSE_AND_WORSE | {"callbacks": ["early_stop"], "early_stop_interval": 1}),
    "TensorBoard": Feature({"report_to": "tensorboard"}, silent=True),
    "tied embeddings": Feature(model("tied", "llama")),
    "head with a bias": Feature(model("biased", "phi2")),
    "Qwen 3": Feature(model("qwen3", "qwen3")),
    "experts, no balancing loss": Feature(model("experts", "mixtral")),
    "experts with balancing loss": Feature(
        model("experts", "mixtral") | {"router_aux_loss_coef": 0.5}, on="experts, no balancing loss"
    ),
    "experts with balancing loss, accumulated": Feature(
        model("experts", "mixtral") | {"router_aux_loss_coef": 0.5, "gradient_accumulation_steps": 2}
    ),
    "softcapped logits (Gemma 2)": Feature(model("gemma2", "gemma2")),
    "scaled logits (Granite)": Feature(model("granite", "llama")),
    "scaled logits (Cohere)": Feature(model("cohere", "llama")),
    "state space (Mamba)": Feature(model("mamba", "mamba")),
    "sliding window (Mistral)": Feature(model("mistral", "mistral")),
    "longer RoPE": Feature({"rope_scaling": "linear", "max_model_len": 512}),
    "DFT": Feature({"enable_dft_loss": True}),
    "channel loss": Feature({"enable_channel_loss": True}),
    "token weights": Feature({"loss_scale": "hermes"}, silent=True),  # tests/hosts/swift has data with weights
    "another registered loss": Feature({"task_type": "embedding", "loss_type": "infonce"}),
    "reward model": Feature({"task_type": "seq_cls", "num_labels": 2}),
    "Unsloth": Feature({"tuner_backend": "unsloth"}, on="LoRA"),
    "FSDP": Feature({"fsdp": "fsdp2"}),
    "sequence or context parallelism": Feature({"sequence_parallel_size": 2}),
}


class Driver(Swift):
    def settings(self, name: str, env: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        # ms-swift's default is to checkpoint gradients.
        settings = super().settings(name, env, **{"max_steps": 4, "gradient_checkpointing": False} | changes)
        return {key: value for key, value in settings.items() if value is not None}  # null would become "None"


class SwiftHost(Host):
    title = "ms-swift"
    package = "ms-swift"
    versions: ClassVar = {"4.6.0": "swift"}
    features = FEATURES
    Driver = Driver

    def with_otr(self, recipe: dict[str, Any], **settings: Any) -> dict[str, Any]:
        return recipe | {"loss_type": "otr", "env": {f"OTR_{name.upper()}": value for name, value in settings.items()}}

    def start(self) -> None:
        import swift.arguments
        import swift.cli.main
        import swift.pipelines
        import swift.trainers  # noqa: F401

    def train(self, recipe: Path) -> Log:
        from swift.arguments import SftArguments
        from swift.cli.main import parse_yaml_args
        from swift.pipelines import sft_main

        # Skips the check that flash attention is installed, which needs a GPU. Packing itself works without it.
        SftArguments._check_padding_free = lambda args: setattr(args, "padding_free", args.padding_free or args.packing)
        argv = [str(recipe)]
        sys.argv = ["swift", *argv]
        parse_yaml_args(argv)
        log: Log = sft_main(argv)["log_history"]
        return log


HOST = SwiftHost()
