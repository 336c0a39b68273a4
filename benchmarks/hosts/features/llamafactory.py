"""LLaMA-Factory's features."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.hosts.driver import HostDriver
from benchmarks.hosts.features.feature import FULL, TRITON_INTERPRETER, Feature
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.features.training_arguments import WORSE_AND_WORSE, common
from benchmarks.hosts.llamafactory import LlamaFactory

EVALUATED = {"val_size": 0.2, "eval_strategy": "steps", "eval_steps": 2}
LORA = {"finetuning_type": "lora", "lora_rank": 8, "lora_target": "q_proj,v_proj"}
SHAREGPT = {"formatting": "sharegpt", "columns": {"messages": "conversations"}}
OPENAI = {
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}
DATASETS: dict[str, dict[str, Any]] = {
    "sums": {},
    "same": {},
    "alpaca": {},
    "long-alpaca": {},
    "held-out-alpaca": {},
    "sharegpt": SHAREGPT,
    "chats": OPENAI,
    "system": OPENAI,
    "text": {"columns": {"prompt": "text"}},
}
FEATURES = common(EVALUATED) | {
    FULL: Feature({}),
    "from random weights": Feature({"train_from_scratch": True}),
    "frozen layers": Feature({"finetuning_type": "freeze", "freeze_trainable_layers": 1}),
    "new tokens, embeddings resized": Feature({"add_tokens": "<think>,</think>", "resize_vocab": True}, silent=True),
    "LoRA": Feature(LORA),
    "LoRA on every linear layer": Feature({"lora_target": "all"}, on="LoRA"),
    "LoRA with dropout": Feature({"lora_dropout": 0.2}, on="LoRA"),
    "LoRA on the head": Feature({"lora_target": "q_proj,lm_head"}, on="LoRA"),
    "LoRA, head and embedding trained whole": Feature({"additional_target": "embed_tokens,lm_head"}, on="LoRA"),
    "LoRA, continued from a saved adapter": Feature(
        {"adapter_name_or_path": "{before}"}, on="LoRA", before={"adapter_name_or_path": None, "max_steps": 2}
    ),
    "rsLoRA": Feature({"use_rslora": True}, on="LoRA"),
    "DoRA": Feature({"use_dora": True}, on="LoRA"),
    "LoRA+": Feature({"loraplus_lr_ratio": 16.0}, on="LoRA"),
    "PiSSA": Feature({"pissa_init": True, "pissa_iter": -1}, on="LoRA"),
    "OFT": Feature({"finetuning_type": "oft", "oft_block_size": 4, "oft_rank": 0, "oft_target": "q_proj"}),
    "LLaMA Pro": Feature({"finetuning_type": "freeze", "freeze_trainable_layers": 2, "use_llama_pro": True}),
    "LongLoRA": Feature({"shift_attn": True, "cutoff_len": 64}, on="LoRA"),
    "mixture of depths": Feature({"mixture_of_depths": "convert"}),
    "BAdam": Feature({"use_badam": True}),
    "QLoRA, nf4": Feature({"quantization_bit": 4, "double_quantization": False}, on="LoRA"),
    "QLoRA, fp4": Feature({"quantization_type": "fp4"}, on="QLoRA, nf4"),
    "QLoRA, double quantisation": Feature({"double_quantization": True}, on="QLoRA, nf4"),
    "QLoRA with DoRA": Feature({"use_dora": True}, on="QLoRA, nf4"),
    "QLoRA, head trained whole": Feature({"additional_target": "lm_head"}, on="QLoRA, nf4"),
    "QLoRA in bf16": Feature({"bf16": True}, on="QLoRA, nf4", precision="bfloat16"),
    "QLoRA in bf16, head trained whole": Feature(
        {"additional_target": "lm_head"}, on="QLoRA in bf16", precision="bfloat16"
    ),
    "LoRA on 8-bit weights": Feature({"quantization_bit": 8}, on="LoRA", precision="float16"),
    "bf16, weights too": Feature({"pure_bf16": True}, precision="bfloat16"),
    "fp8": Feature({"fp8": True}, precision="bfloat16"),
    "norms in float32": Feature({"upcast_layernorm": True, "bf16": True}, precision="bfloat16"),
    "eager attention": Feature({"flash_attn": "disabled"}, silent=True),
    "sdpa attention": Feature({"flash_attn": "sdpa"}, silent=True),
    "flash attention": Feature({"flash_attn": "fa2"}),
    "Liger as the host switches it on": Feature(
        {"enable_liger_kernel": True, "max_steps": 2, "cutoff_len": 16}, environment=TRITON_INTERPRETER, silent=True
    ),
    "gradient checkpointing, not reentrant": Feature({"use_reentrant_gc": False}, silent=True),
    "gradient checkpointing, reentrant": Feature({"use_reentrant_gc": True}, silent=True),
    "gradient checkpointing, LoRA": Feature({"use_reentrant_gc": True}, on="LoRA with dropout", silent=True),
    "gradient checkpointing, QLoRA": Feature({"use_reentrant_gc": True}, on="QLoRA, nf4", silent=True),
    "gradient checkpointing, Unsloth's": Feature({"use_unsloth_gc": True}, silent=True),
    "packing": Feature({"packing": True, "neat_packing": True, "flash_attn": "sdpa"}),
    "packing, LoRA": Feature({"packing": True, "neat_packing": True, "flash_attn": "sdpa"}, on="LoRA"),
    "packing without a mask (neat_packing off)": Feature({"packing": True}),
    "packing and accumulation": Feature(
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}, on="packing"
    ),
    "packing, evaluated packed": Feature(EVALUATED, on="packing"),
    "grouped by length": Feature({"train_sampling_strategy": "group_by_length"}),
    "sequential order": Feature({"disable_shuffling": True}),
    "long samples cut": Feature({"dataset": "long-alpaca", "cutoff_len": 24}),
    "streaming": Feature({"streaming": True, "buffer_size": 32, "dataset": "alpaca", "dataloader_num_workers": 1}),
    "Alpaca": Feature({"dataset": "alpaca", "template": "alpaca"}),
    "chat template": Feature({"dataset": "chats", "template": "qwen"}),
    "chat template, several turns": Feature({"dataset": "chats"}),
    "chat template, only the last turn": Feature({"dataset": "chats", "mask_history": True}),
    "ShareGPT conversations": Feature({"dataset": "sharegpt"}),
    "system prompt": Feature({"dataset": "system", "template": "llama3"}),
    "prompts trained too": Feature({"train_on_prompt": True}),
    "plain text": Feature({"stage": "pt", "dataset": "text"}),
    "several datasets": Feature({"dataset": "alpaca,sharegpt,long-alpaca"}),
    "datasets interleaved": Feature(
        {"dataset": "alpaca,sharegpt", "mix_strategy": "interleave_under", "interleave_probs": "0.3,0.7"}
    ),
    "thinking": Feature({"template": "qwen3", "enable_thinking": False}),
    "Muon": Feature({"use_muon": True}),
    "GaLore": Feature({"use_galore": True}),
    "APOLLO": Feature({"use_apollo": True}),
    "Adam-mini": Feature({"use_adam_mini": True}),
    "evaluation on its own data": Feature(
        {"eval_dataset": "held-out-alpaca", "eval_strategy": "steps", "eval_steps": 2}, silent=True
    ),
    "evaluation on each data set": Feature(
        {
            "eval_dataset": "held-out-alpaca,sharegpt",
            "eval_on_each_dataset": True,
            "eval_strategy": "steps",
            "eval_steps": 2,
        },
        silent=True,
    ),
    "evaluation with metrics": Feature(EVALUATED | {"compute_accuracy": True}, on="evaluation", silent=True),
    "evaluation by generation": Feature(EVALUATED | {"predict_with_generate": True}, on="evaluation", silent=True),
    "early stopping": Feature(EVALUATED | WORSE_AND_WORSE | {"early_stopping_steps": 1}),
    "tokens per second": Feature({"include_effective_tokens_per_second": True}, silent=True),
    "profiler": Feature({"enable_torch_profiler": True}, silent=True),
    "perplexity and plots": Feature(EVALUATED | {"plot_loss": True}, on="evaluation", silent=True),
    "tied embeddings": Feature({"model_name_or_path": "{folder}/tied"}),
    "head with a bias": Feature({"model_name_or_path": "{folder}/biased"}),
    "Qwen 3": Feature({"model_name_or_path": "{folder}/qwen3"}),
    "experts, no balancing loss": Feature({"model_name_or_path": "{folder}/experts"}),
    "experts with balancing loss": Feature(
        {"model_name_or_path": "{folder}/experts", "moe_aux_loss_coef": 0.5}, on="experts, no balancing loss"
    ),
    "experts with balancing loss, accumulated": Feature(
        {"model_name_or_path": "{folder}/experts", "moe_aux_loss_coef": 0.5, "gradient_accumulation_steps": 2}
    ),
    "softcapped logits (Gemma 2)": Feature({"model_name_or_path": "{folder}/gemma2"}),
    "scaled logits (Granite)": Feature({"model_name_or_path": "{folder}/granite"}),
    "scaled logits (Cohere)": Feature({"model_name_or_path": "{folder}/cohere"}),
    "state space (Mamba)": Feature({"model_name_or_path": "{folder}/mamba"}),
    "sliding window (Mistral)": Feature({"model_name_or_path": "{folder}/mistral"}),
    "longer RoPE": Feature({"rope_scaling": "linear", "cutoff_len": 512}),
    "DFT": Feature({"use_dft_loss": True}),
    "EAFT": Feature({"use_eaft_loss": True}),
    "ASFT": Feature({"use_asft_loss": True}),
    "preferences or RL": Feature({"stage": "dpo"}),
    "reward model": Feature({"stage": "rm"}),
    "Unsloth": Feature({"use_unsloth": True}),
    "Megatron": Feature({"use_mca": True}),
    "KTransformers": Feature({"use_kt": True}),
    "other plugins": Feature({"plugins": ["another"]}),
}


class Driver(LlamaFactory):
    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        # LLaMA-Factory's default is to checkpoint gradients.
        off = {} if "use_reentrant_gc" in changes else {"disable_gradient_checkpointing": True}
        return super().settings(name, **{"max_steps": 4} | off | changes)


class LlamaFactoryHost(Host):
    title = "LLaMA-Factory"
    package = "llamafactory"
    versions: ClassVar = {"0.9.5": "llamafactory"}
    features = FEATURES
    Driver = Driver

    def driver(self, folder: Path) -> HostDriver:
        driver = super().driver(folder)
        info = {name: {"file_name": f"{name}.json"} | more for name, more in DATASETS.items()}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        return driver

    def start(self) -> None:
        import llamafactory.train.tuner  # noqa: F401

    def train(self, recipe: Path) -> Log:
        from llamafactory.train.tuner import run_exp

        sys.argv = ["llamafactory-cli", str(recipe)]
        run_exp()
        state = json.loads((recipe.with_suffix("") / "trainer_state.json").read_text())
        log: Log = state["log_history"]
        return log


HOST = LlamaFactoryHost()
