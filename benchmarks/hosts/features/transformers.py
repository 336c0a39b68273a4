"""transformers' Trainer in Python, with a model to which OTR is attached.

trainer_script.py has what a user writes in Python; a recipe holds TrainingArguments and the keys of that script.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml

from benchmarks.hosts.driver import CPU_ENVIRONMENT, CPU_TRAINER_RECIPE, HostDriver
from benchmarks.hosts.features.feature import FULL, TRITON_INTERPRETER, Feature
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.features.training_arguments import WORSE_AND_WORSE, common

EVALUATED = {"eval_split": 16, "eval_strategy": "steps", "eval_steps": 2}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def lora(**changes: Any) -> dict[str, Any]:
    return {"lora": {**LORA, **changes}}


def quantized(**settings: Any) -> dict[str, Any]:
    return {"from_pretrained": {"quantization_config": settings}}


FEATURES = common(EVALUATED) | {
    FULL: Feature({}),
    "from random weights": Feature({"python": "from_config"}),
    "frozen layers": Feature({"python": "freeze"}),
    "new tokens, embeddings resized": Feature({"python": "resize_token_embeddings"}),
    "LoRA": Feature(lora()),
    "LoRA on every linear layer": Feature(lora(target_modules="all-linear"), on="LoRA"),
    "LoRA with dropout": Feature(lora(lora_dropout=0.2), on="LoRA"),
    "LoRA on the head": Feature(lora(target_modules=["q_proj", "lm_head"]), on="LoRA"),
    "LoRA on expert weights (target_parameters)": Feature(
        lora(target_parameters=["mlp.experts.gate_up_proj"]) | {"model": "experts"}, on="LoRA"
    ),
    "LoRA, head and embedding trained whole": Feature(lora(modules_to_save=["embed_tokens", "lm_head"]), on="LoRA"),
    "LoRA, single tokens' embeddings trained": Feature(lora(trainable_token_indices=[31, 32, 33]), on="LoRA"),
    "LoRA, ranks by layer": Feature(lora(rank_pattern={"v_proj": 2}), on="LoRA"),
    "LoRA with biases": Feature(lora(bias="all") | {"model": "biased"}, on="LoRA"),
    "rsLoRA": Feature(lora(use_rslora=True), on="LoRA"),
    "DoRA": Feature(lora(use_dora=True), on="LoRA"),
    "PiSSA": Feature(lora(init_lora_weights="pissa"), on="LoRA"),
    "OLoRA": Feature(lora(init_lora_weights="olora"), on="LoRA"),
    "AdaLoRA": Feature({"lora": {"peft_type": "ADALORA", "total_step": 4, "target_modules": ["q_proj", "v_proj"]}}),
    "VeRA": Feature({"lora": {"peft_type": "VERA", "r": 8, "target_modules": ["q_proj", "o_proj"]}}),
    "BOFT": Feature({"lora": {"peft_type": "BOFT", "boft_block_size": 4, "target_modules": ["q_proj"]}}),
    "FourierFT": Feature({"lora": {"peft_type": "FOURIERFT", "n_frequency": 20, "target_modules": ["q_proj"]}}),
    "OFT": Feature({"lora": {"peft_type": "OFT", "oft_block_size": 4, "target_modules": ["q_proj"]}}),
    "IA3": Feature(
        {"lora": {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}}
    ),
    "prompt tuning": Feature({"lora": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}}),
    "QLoRA, nf4": Feature(quantized(**NF4), on="LoRA"),
    "QLoRA, fp4": Feature(quantized(load_in_4bit=True, bnb_4bit_quant_type="fp4"), on="QLoRA, nf4"),
    "QLoRA, double quantisation": Feature(quantized(**NF4, bnb_4bit_use_double_quant=True), on="QLoRA, nf4"),
    "QLoRA with DoRA": Feature(lora(use_dora=True), on="QLoRA, nf4"),
    "QLoRA, head trained whole": Feature(lora(modules_to_save=["lm_head"]), on="QLoRA, nf4"),
    "QLoRA in bf16": Feature({"bf16": True}, on="QLoRA, nf4", precision="bfloat16"),
    "QLoRA in bf16, head trained whole": Feature(
        lora(modules_to_save=["lm_head"]), on="QLoRA in bf16", precision="bfloat16"
    ),
    "LoRA on 8-bit weights": Feature(quantized(load_in_8bit=True), on="LoRA"),
    "bf16, weights too": Feature({"from_pretrained": {"dtype": "bfloat16"}}, precision="bfloat16"),
    "eager attention": Feature({"from_pretrained": {"attn_implementation": "eager"}}, silent=True),
    "sdpa attention": Feature({"from_pretrained": {"attn_implementation": "sdpa"}}, silent=True),
    "flash attention": Feature({"from_pretrained": {"attn_implementation": "flash_attention_2"}}),
    "flex attention": Feature({"from_pretrained": {"attn_implementation": "flex_attention"}}, silent=True),
    "Liger: norm, rope, SwiGLU": Feature(
        {"use_liger_kernel": True, "liger_kernel_config": {"fused_linear_cross_entropy": False}, "max_steps": 2},
        silent=True,
        environment=TRITON_INTERPRETER,
    ),
    "Liger as the host switches it on": Feature({"use_liger_kernel": True}, environment=TRITON_INTERPRETER),
    "padding-free": Feature({"collator": "DataCollatorWithFlattening"}),
    "padded to a multiple": Feature({"collator": "padded to 16"}, silent=True),
    "padded on the left": Feature({"collator": "padded on the left"}, silent=True),
    "grouped by length": Feature({"train_sampling_strategy": "group_by_length"}),
    "streaming": Feature({"python": "IterableDataset"}),
    "evaluation with metrics": Feature(EVALUATED | {"python": "compute_metrics"}, on="evaluation", silent=True),
    "evaluation with metrics in batches": Feature(
        EVALUATED | {"python": "compute_metrics", "batch_eval_metrics": True}, on="evaluation", silent=True
    ),
    "evaluation on each data set": Feature(EVALUATED | {"python": "two evaluation sets"}, on="evaluation", silent=True),
    "early stopping": Feature(EVALUATED | WORSE_AND_WORSE | {"python": "EarlyStoppingCallback"}),
    "custom callback": Feature({"python": "callback"}),
    "TensorBoard": Feature({"report_to": "tensorboard"}, silent=True),
    "tied embeddings": Feature({"model": "tied"}),
    "head with a bias": Feature({"model": "biased"}),
    "Qwen 3": Feature({"model": "qwen3"}),
    "experts, no balancing loss": Feature({"model": "experts"}),
    "experts with balancing loss": Feature({"model": "balanced-experts"}),
    "experts with balancing loss, accumulated": Feature(
        {"model": "balanced-experts", "gradient_accumulation_steps": 2}
    ),
    "softcapped logits (Gemma 2)": Feature({"model": "gemma2"}),
    "scaled logits (Granite)": Feature({"model": "granite"}),
    "scaled logits (Cohere)": Feature({"model": "cohere"}),
    "state space (Mamba)": Feature({"model": "mamba"}),
    "sliding window (Mistral)": Feature({"model": "mistral"}),
    "custom loss function": Feature({"python": "compute_loss_func"}),
    "custom trainer": Feature({"python": "a subclass with its own compute_loss"}),
}


class Driver(HostDriver):
    ENV = CPU_ENVIRONMENT

    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        own = {"output_dir": str(self.folder / name), "max_steps": 4, "disable_tqdm": True}
        return CPU_TRAINER_RECIPE | own | changes


class TransformersHost(Host):
    title = "Trainer"
    package = "transformers"
    versions: ClassVar = {"5.16.1": "transformers"}
    others = ("peft", "accelerate", "bitsandbytes", "torch")
    features = FEATURES
    Driver = Driver

    def with_otr(self, recipe: dict[str, Any], **settings: Any) -> dict[str, Any]:
        return recipe | {"otr": settings}

    def start(self) -> None:
        import peft
        import transformers.trainer

        assert peft.LoraConfig
        assert transformers.trainer.Trainer

    def train(self, recipe: Path) -> Log:
        from benchmarks.hosts.features.trainer_script import train

        return train(yaml.safe_load(recipe.read_text()), recipe.parent)


HOST = TransformersHost()
