"""TRL's features, in `trl sft`."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.hosts.features.axolotl import log_in
from benchmarks.hosts.features.feature import FULL, TRITON_INTERPRETER, Feature
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.features.training_arguments import common
from benchmarks.hosts.trl import SAVED, TRL

EVALUATED = {"test_split_size": 0.2, "eval_strategy": "steps", "eval_steps": 2}
LORA = {
    "use_peft": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_target_modules": ["q_proj", "v_proj"],
    "lora_dropout": 0.0,
}
PACKED = {"packing": True, "max_length": 32, "per_device_train_batch_size": 1}


def data(*names: str) -> dict[str, Any]:
    return {"datasets": [{"path": "json", "data_files": f"{{folder}}/{name}.jsonl"} for name in names]}


FEATURES = common(EVALUATED) | {
    FULL: Feature({}),
    "LoRA": Feature(LORA),
    "LoRA on every linear layer": Feature({"lora_target_modules": ["all-linear"]}, on="LoRA"),
    "LoRA with dropout": Feature({"lora_dropout": 0.2}, on="LoRA"),
    "LoRA on the head": Feature({"lora_target_modules": ["q_proj", "lm_head"]}, on="LoRA"),
    "LoRA on expert weights (target_parameters)": Feature(
        {"model_name_or_path": "{folder}/experts", "lora_target_parameters": ["mlp.experts.gate_up_proj"]}, on="LoRA"
    ),
    "LoRA, head and embedding trained whole": Feature({"lora_modules_to_save": ["embed_tokens", "lm_head"]}, on="LoRA"),
    "rsLoRA": Feature({"use_rslora": True}, on="LoRA"),
    "DoRA": Feature({"use_dora": True}, on="LoRA"),
    "QLoRA, nf4": Feature({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, on="LoRA"),
    "QLoRA, fp4": Feature({"bnb_4bit_quant_type": "fp4"}, on="QLoRA, nf4"),
    "QLoRA, double quantisation": Feature({"use_bnb_nested_quant": True}, on="QLoRA, nf4"),
    "QLoRA with DoRA": Feature({"use_dora": True}, on="QLoRA, nf4"),
    "QLoRA, head trained whole": Feature({"lora_modules_to_save": ["lm_head"]}, on="QLoRA, nf4"),
    "QLoRA in bf16": Feature({"bf16": True}, on="QLoRA, nf4", precision="bfloat16"),
    "QLoRA in bf16, head trained whole": Feature(
        {"lora_modules_to_save": ["lm_head"]}, on="QLoRA in bf16", precision="bfloat16"
    ),
    "LoRA on 8-bit weights": Feature({"load_in_8bit": True}, on="LoRA", precision="float16"),
    "bf16, weights too": Feature({"dtype": "bfloat16"}, precision="bfloat16"),
    "eager attention": Feature({"attn_implementation": "eager"}, silent=True),
    "sdpa attention": Feature({"attn_implementation": "sdpa"}, silent=True),
    "flash attention": Feature({"attn_implementation": "flash_attention_2"}),
    "flex attention": Feature({"attn_implementation": "flex_attention"}, silent=True),
    "kernels from the Hub": Feature({"attn_implementation": "kernels-community/flash-attn2"}),
    "Liger as the host switches it on": Feature(
        {"use_liger_kernel": True, "max_steps": 2, "max_length": 16}, environment=TRITON_INTERPRETER, silent=True
    ),
    "fused cross entropy of Liger": Feature(
        {"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": True}},
        environment=TRITON_INTERPRETER,
    ),
    "activation offloading": Feature({"activation_offloading": True}, silent=True),
    "packing": Feature(PACKED),
    "packing, LoRA": Feature(PACKED, on="LoRA"),
    "packing by first fit": Feature({"packing_strategy": "bfd_split"}, on="packing", silent=True),
    "packing, wrapped": Feature({"packing_strategy": "wrapped"}, on="packing"),
    "packing and accumulation": Feature({"gradient_accumulation_steps": 2}, on="packing"),
    "packing, evaluated packed": Feature(EVALUATED | {"eval_packing": True}, on="packing"),
    "padding-free": Feature({"padding_free": True, "max_length": None}, silent=True),
    "padded to a multiple": Feature({"pad_to_multiple_of": 16}, silent=True),
    "grouped by length": Feature({"train_sampling_strategy": "group_by_length"}),
    "sequential order": Feature({"train_sampling_strategy": "sequential"}),
    "long samples cut": Feature(data("long") | {"max_length": 24}),
    "streaming": Feature({"streaming": True}),
    "chat template": Feature(data("chats")),
    "chat template, roles to train": Feature(data("chats") | {"assistant_only_loss": True}),
    "system prompt": Feature(data("system")),
    "ShareGPT conversations": Feature(data("sharegpt")),
    "prompts and completions": Feature(data("pairs"), silent=True),
    "completions, trained on prompts too": Feature({"completion_only_loss": False}),
    "plain text": Feature(data("text")),
    "several datasets": Feature(data("pairs", "long")),
    "tied embeddings": Feature({"model_name_or_path": "{folder}/tied"}),
    "head with a bias": Feature({"model_name_or_path": "{folder}/biased"}),
    "Qwen 3": Feature({"model_name_or_path": "{folder}/qwen3"}),
    "experts, no balancing loss": Feature({"model_name_or_path": "{folder}/experts", "router_aux_loss_coef": 0.0}),
    "experts with balancing loss": Feature(
        {"model_name_or_path": "{folder}/experts", "router_aux_loss_coef": 0.5}, on="experts, no balancing loss"
    ),
    "experts with balancing loss, accumulated": Feature(
        {"model_name_or_path": "{folder}/experts", "router_aux_loss_coef": 0.5, "gradient_accumulation_steps": 2}
    ),
    "softcapped logits (Gemma 2)": Feature({"model_name_or_path": "{folder}/gemma2"}),
    "scaled logits (Granite)": Feature({"model_name_or_path": "{folder}/granite"}),
    "scaled logits (Granite), loss_type nll": Feature({"model_name_or_path": "{folder}/granite", "loss_type": "nll"}),
    "scaled logits (Cohere)": Feature({"model_name_or_path": "{folder}/cohere"}),
    "state space (Mamba)": Feature({"model_name_or_path": "{folder}/mamba"}),
    "sliding window (Mistral)": Feature({"model_name_or_path": "{folder}/mistral"}),
    "loss_type nll": Feature({"loss_type": "nll"}, silent=True),
    "loss_type chunked_nll": Feature({"loss_type": "chunked_nll"}, silent=True),
    "DFT": Feature({"loss_type": "dft"}),
    "other plugins": Feature({"plugins": ["another"]}),
}
# The script of `trl sft` cannot resume in TRL 1.9; tests/hosts/trl resumes in Python.


class Driver(TRL):
    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        shared: dict[str, Any] = SAVED | {"max_steps": 4}
        return super().settings(name, **shared | changes)


class TRLHost(Host):
    title = "TRL"
    package = "trl"
    versions: ClassVar = {"1.16.0": "trl", "1.9.0": "trl-1.9"}
    features = FEATURES
    Driver = Driver

    def start(self) -> None:
        import trl.scripts.sft
        import trl.trainer.sft_trainer  # noqa: F401

        with suppress(ImportError):
            import_module("trackio")  # TRL 1.9 imports it, if it is installed, when it saves a model

    def train(self, recipe: Path) -> Log:
        from trl.scripts.sft import main, make_parser

        main(*make_parser().parse_args_and_config(["--config", str(recipe)], fail_with_unknown_args=False))
        return log_in(recipe.with_suffix(""))


HOST = TRLHost()
