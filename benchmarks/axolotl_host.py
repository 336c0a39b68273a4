"""Runs the real `axolotl` command on a model of its own, on a CPU: for tests, and to be measured."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent
ENV = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parent.parent),  # for axolotl_probe
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # axolotl starts `accelerate`
    "AXOLOTL_DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "AXOLOTL_METRIC_NDIGITS": "8",
}
CPU_RECIPE: dict[str, Any] = {
    "sequence_len": 64,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 6,
    "learning_rate": 0.01,
    "optimizer": "adamw_torch",
    "lr_scheduler": "constant",
    "val_set_size": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "seed": 42,
    "bf16": False,
    "fp16": False,
    "tf32": False,
    "attn_implementation": "sdpa",
    "lora_mlp_kernel": False,
    "lora_qkv_kernel": False,
    "lora_o_kernel": False,
    "dataloader_num_workers": 0,
    "dataset_num_proc": 1,
}


def make_model(where: Path, **settings: Any) -> None:
    """A random Llama with a tokenizer of single characters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789 .:+="]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(where)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    LlamaForCausalLM(LlamaConfig(**sizes | settings)).save_pretrained(where)


def make_data(path: Path, count: int = 64, digits: int = 1) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            a, b = draw.randint(0, 99), draw.randint(0, 99)
            answer = f"{a + b:0{digits}d}."
            file.write(json.dumps({"prompt": f"{a}+{b}=", "completion": answer}) + "\n")


DATASET = {
    "field_instruction": "prompt",
    "field_output": "completion",
    "format": "{instruction}",
    "no_input_format": "{instruction}",
}


def run_command(*command: str, folder: Path, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
    """A host's own command. If it has to succeed and does not, the end of what it said."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=600)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


def again_if_a_rank_died(run: Callable[[], Any]) -> Any:
    """A rank on gloo was once seen to die by a signal, likely as it was taken down. Once is forgiven, and printed."""
    try:
        return run()
    except AssertionError as error:
        if not re.search(r"Signal (6|11) ", str(error)):
            raise
        print(f"a rank died by a signal; once more:\n{error}")
        return run()


class Axolotl:
    """One folder with a model, data and the runs that used them."""

    def __init__(self, folder: Path, examples: int = 64) -> None:
        self.folder = folder
        make_model(folder / "model")
        make_data(folder / "data.jsonl", examples)
        make_data(folder / "even.jsonl", digits=3)  # every answer is equally long

    def recipe(self, name: str, **changes: Any) -> Path:
        data = changes.pop("data", "data.jsonl")
        recipe = CPU_RECIPE | {
            "base_model": str(self.folder / "model"),
            "datasets": [{"path": str(self.folder / data), "ds_type": "json", "type": DATASET}],
            "dataset_prepared_path": str(self.folder / "prepared"),
            "output_dir": str(self.folder / name),
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe | changes))
        return path

    def call(
        self, *arguments: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return run_command(str(BIN / "axolotl"), *arguments, folder=self.folder, env=ENV | (env or {}), check=check)

    def train(
        self, name: str, *arguments: str, env: dict[str, str] | None = None, **changes: Any
    ) -> tuple[list[dict[str, float]], str]:
        """(what was logged at every step, everything that was printed)."""
        changes = {"save_strategy": "steps", "save_steps": 1000, "save_first_step": False} | changes
        done = self.call("train", str(self.recipe(name, **changes)), *arguments, env=env)
        return self.log_of(name), done.stdout + done.stderr

    def log_of(self, name: str) -> list[dict[str, float]]:
        states = sorted((self.folder / name).glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
        log: list[dict[str, float]] = json.loads(states[-1].read_text())["log_history"]
        return log
