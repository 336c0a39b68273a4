"""Runs the real `axolotl` command on a tiny model, on a CPU: for the tests and for the benchmark of a step."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from benchmarks.hosts.driver import BIN, CPU_ENVIRONMENT, HostDriver, sums, write_jsonl
from benchmarks.paths import ROOT

ENV = {
    **CPU_ENVIRONMENT,
    "PYTHONPATH": str(ROOT),  # Recipes name plugins in benchmarks/.
    "AXOLOTL_DO_NOT_TRACK": "1",
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
DATASET = {
    "field_instruction": "prompt",
    "field_output": "completion",
    "format": "{instruction}",
    "no_input_format": "{instruction}",
}


class Axolotl(HostDriver):
    """Trains on data.jsonl, or on equal_lengths.jsonl, in which all answers have the same length."""

    ENV = ENV

    def __init__(self, folder: Path, examples: int = 64) -> None:
        super().__init__(folder)
        for name, pairs in {"data": sums(examples), "equal_lengths": sums(64, digits=3)}.items():
            write_jsonl(folder / f"{name}.jsonl", ({"prompt": q, "completion": a} for q, a in pairs))

    def settings(self, name: str, *, data: str = "data.jsonl", **changes: Any) -> dict[str, Any]:
        own = {
            "base_model": str(self.folder / "model"),
            "datasets": [{"path": str(self.folder / data), "ds_type": "json", "type": DATASET}],
            "dataset_prepared_path": str(self.folder / "prepared"),
            "output_dir": str(self.folder / name),
        }
        return CPU_RECIPE | own | changes

    def call(
        self, *arguments: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return super().call(str(BIN / "axolotl"), *arguments, check=check, env=env)

    def train(
        self, name: str, *arguments: str, env: dict[str, str] | None = None, **changes: Any
    ) -> tuple[list[dict[str, float]], str]:
        """Runs `axolotl train`; returns the log of every step, and all that was printed.

        Without a `--launcher` among the arguments, training runs in the command's own process: Axolotl's default starts
        `accelerate launch` and from there a third process, and each of them imports torch.
        """
        if "--launcher" not in arguments:
            arguments = (*arguments, "--launcher", "python")
        # `log_of` reads the checkpoint that is saved at the end.
        changes = {"save_strategy": "steps", "save_steps": 1000, "save_first_step": False} | changes
        done = self.call("train", str(self.recipe(name, **changes)), *arguments, env=env)
        return self.log_of(name), done.stdout + done.stderr
