"""How right `otr memory` is: steps of small recipes on tensors without values, beside the same steps on real tensors.

Three figures for each recipe: the peak on fake tensors, the peak that the same count gives on real tensors, and the
peak that PyTorch's CPU allocator reports for the real step. The rest are the pages' examples. What the result file has
is not measured again. `python -m benchmarks gpu` compares with a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks import provenance
from benchmarks.paths import EXAMPLES, RESULTS, ROOT
from benchmarks.performance import memory_page
from otr_plugin.command.memory import kernels, model, step
from otr_plugin.command.memory.plan import TrainingPlan, settled
from otr_plugin.command.memory.reading import plan_of

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8000,
    "max_position_embeddings": 4096,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
    "gemma2": {"head_dim": 64, "sliding_window": 128, "final_logit_softcapping": 30.0, "pad_token_id": 0},
    "gemma3_text": {"head_dim": 64, "sliding_window": 128, "pad_token_id": 0},
    "phi3": {"pad_token_id": 0},
    "qwen3_moe": {"head_dim": 64, "moe_intermediate_size": 128, **EXPERTS},
    "olmoe": EXPERTS,
}
AXOLOTL: dict[str, Any] = {"base_model": "m", "sequence_len": 512, "micro_batch_size": 1, "plugins": ["otr"], "otr": {}}
LORA = {"adapter": "lora", "lora_r": 8, "lora_target_linear": True}
QLORA = LORA | {"adapter": "qlora", "load_in_4bit": True}
FACTORY: dict[str, Any] = {
    "model_name_or_path": "m",
    "stage": "sft",
    "plugins": ["otr"],
    "bf16": True,
    "cutoff_len": 256,
}
TRL: dict[str, Any] = {"model_name_or_path": "m", "dataset_name": "d", "plugins": ["otr"], "max_length": 256}
SWIFT: dict[str, Any] = {"model": "m", "loss_type": "otr", "tuner_type": "lora", "max_length": 512}
WITHOUT_OTR: dict[str, Any] = {"plugins": [], "otr": None}
# Name: the model's family, and the recipe.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("llama", AXOLOTL),
    "full, checkpointing": ("qwen3", AXOLOTL | {"gradient_checkpointing": True, "optimizer": "adamw_torch"}),
    "full, float32": ("mistral", AXOLOTL | {"bf16": False, "optimizer": "adafactor"}),
    "full, SFT": ("gemma2", AXOLOTL | WITHOUT_OTR | {"optimizer": "adamw_bnb_8bit"}),
    "experts": ("qwen3_moe", AXOLOTL | {"gradient_checkpointing": True, "flash_attention": True}),
    "experts, SFT": ("olmoe", AXOLOTL | WITHOUT_OTR),
    "LoRA, packing": (
        "qwen2",
        AXOLOTL | LORA | {"sample_packing": True, "flash_attention": True, "micro_batch_size": 2},
    ),
    "LoRA, packing with a mask": ("gemma3_text", AXOLOTL | LORA | {"sample_packing": True, "lora_dropout": 0.1}),
    "LoRA and a trained head": ("llama", AXOLOTL | LORA | {"lora_modules_to_save": ["lm_head", "embed_tokens"]}),
    "LoRA, offloaded": (
        "llama",
        AXOLOTL | LORA | {"gradient_checkpointing": True, "activation_offloading": "hidden_states"},
    ),
    "QLoRA, checkpointing": (
        "qwen3",
        AXOLOTL | QLORA | {"gradient_checkpointing": True, "gradient_accumulation_steps": 4},
    ),
    "QLoRA, exact": ("gemma2", AXOLOTL | QLORA | {"otr": {"estimator": "exact", "top_p": 0.9}}),
    "QLoRA, SFT": ("phi3", AXOLOTL | QLORA | WITHOUT_OTR | {"flash_attention": True}),
    "QLoRA, Liger": (
        "qwen2",
        AXOLOTL
        | QLORA
        | {"liger_rope": True, "liger_rms_norm": True, "liger_glu_activation": True, "sequence_len": 1024},
    ),
    "LLaMA-Factory, LoRA": ("qwen2", FACTORY | {"lora_target": "all", "per_device_train_batch_size": 2}),
    "LLaMA-Factory, QLoRA": ("llama", FACTORY | {"quantization_bit": 4, "neat_packing": True, "use_unsloth_gc": True}),
    "LLaMA-Factory, full": ("gemma2", FACTORY | {"finetuning_type": "full", "per_device_train_batch_size": 1}),
    "TRL, DoRA": ("llama", TRL | {"use_peft": True, "lora_target_modules": "all-linear", "use_dora": True}),
    "TRL, QLoRA, packing": (
        "mistral",
        TRL | {"use_peft": True, "load_in_4bit": True, "packing": True, "per_device_train_batch_size": 2},
    ),
    "TRL, full, Liger's loss": (
        "qwen3",
        TRL | {"plugins": [], "use_liger_kernel": True, "per_device_train_batch_size": 4},
    ),
    "ms-swift, LoRA": ("qwen3", SWIFT | {"modules_to_save": ["lm_head"]}),
    "ms-swift, QLoRA": (
        "qwen3_moe",
        SWIFT | {"quant_method": "bnb", "quant_bits": 4, "lora_dropout": 0, "optim": "paged_adamw_8bit"},
    ),
}
SMALL = ("QLoRA, checkpointing", "experts", "LLaMA-Factory, LoRA", "TRL, full, Liger's loss")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", action="store_true", help="a few of the recipes, only to check that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "memory-on-paper", help="result file, without its suffix")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    packages = ("torch", "transformers", "peft", "bitsandbytes", "liger-kernel", "accelerate")
    kept = args.out.with_suffix(".json")
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"cells": []}
    results |= provenance.collect(packages)
    for name in SMALL if args.small else CASES:
        if any(cell["name"] == name for cell in results["cells"]):
            continue
        results["cells"].append(compare(name))
        print(results["cells"][-1], flush=True)
        provenance.write_results(args.out, results, memory_page.render(results))
    for name, measure in () if args.small else (("example", printed), ("models", of_models)):
        if name not in results:
            results[name] = measure()
            provenance.write_results(args.out, results, memory_page.render(results))
    provenance.write_results(args.out, results, memory_page.render(results))


def compare(name: str) -> dict[str, Any]:
    """The three peaks of a recipe, in bytes, and the seconds that the first one took."""
    family, recipe = CASES[name]
    with _plan(recipe, config_of(family)) as plan:
        started = time.monotonic()
        fake = step.run(config_of(family), plan, None).peak
        seconds = time.monotonic() - started
        real = step.run(config_of(family), plan, None, on_real_tensors=True).peak
        cell: dict[str, Any] = {"name": name, "family": family, "host": plan.host, "recipe": recipe}
        cell |= {"fake": fake.total, "real": real.total, "allocator": allocated(config_of(family), plan)}
        return cell | {"phase": fake.phase, "seconds": round(seconds, 2)}


def config_of(family: str) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[family](**SHAPE | FAMILIES[family])


@contextlib.contextmanager
def _plan(recipe: dict[str, Any], config: Any) -> Iterator[TrainingPlan]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "recipe.yaml")
        path.write_text(yaml.safe_dump({key: value for key, value in recipe.items() if value is not None}))
        yield settled(plan_of(path), config)


def allocated(config: Any, plan: TrainingPlan) -> int:
    """The peak that PyTorch's CPU allocator reports for the plan's second step, on real tensors."""
    from torch.profiler import ProfilerActivity, profile

    whole = model.on_meta(config, plan)
    gc.collect()
    with kernels.as_on_a_gpu(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        model.complete(whole, plan)
        step.Step(whole, plan).run()
        model.release(whole)
    events: Any = profiled.profiler.kineto_results.events()
    now = peak = 0
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


# The examples of the pages

EXAMPLE = EXAMPLES / "axolotl" / "qwen3-8b-qlora-24gb-otr.yaml"
CONFIGS = EXAMPLES / "model_configs"
MODELS = ("Llama-3.1-8B", "Qwen3-8B", "gemma-2-9b")
CALL: list[Any] = [EXAMPLE, "--config", CONFIGS, "--gpu", "rtx4090", "--longest", "--against", "sft"]


def printed() -> dict[str, Any]:
    """What a call of `otr memory` prints, as on the page of the command."""
    from click.testing import CliRunner

    from otr_plugin.command.main import command

    words = [str(word.relative_to(ROOT)) if isinstance(word, Path) else word for word in CALL]
    done = CliRunner(env={"COLUMNS": "110"}).invoke(command, ["memory", *words], prog_name="otr")
    return {"command": "otr memory " + " ".join(words), "prints": done.stdout}


def of_models() -> list[dict[str, Any]]:
    """The peaks of the recipe of the example with other models, in bytes, and those of other losses."""
    from otr_plugin.command.memory.estimate import ROOMY, contenders
    from otr_plugin.command.memory.model_config import config_of as read_config

    rows = []
    for path in (CONFIGS / f"{name}.json" for name in MODELS):
        plans = contenders(replace(plan_of(EXAMPLE), model=path.stem), "sft")
        peaks = {}
        for name, plan in plans.items():
            config = read_config(name, path)
            peaks[name] = step.run(config, settled(plan, config), ROOMY).peak.total
        rows.append({"model": path.stem, "peaks": peaks})
        print(rows[-1], flush=True)
        gc.collect()
    return rows
