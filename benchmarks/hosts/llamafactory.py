"""Runs the real `llamafactory-cli` on a model of its own, on a CPU."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.hosts.host import BIN, Host

ENV = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # it starts `torchrun`
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
CPU_RECIPE: dict[str, Any] = {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "dataset": "sums",
    "template": "empty",
    "cutoff_len": 64,
    "preprocessing_num_workers": 1,
    "overwrite_output_dir": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "per_device_train_batch_size": 2,
    "max_steps": 6,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "report_to": "none",
    "seed": 3,
}


class LlamaFactory(Host):
    ENV = ENV

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        draw = random.Random(0)
        pairs = [(draw.randint(0, 99), draw.randint(0, 99)) for _ in range(96)]
        rows = [{"instruction": f"{a}+{b}=", "input": "", "output": f"{a + b}."} for a, b in pairs]
        (folder / "sums.json").write_text(json.dumps(rows))
        (folder / "dataset_info.json").write_text(
            json.dumps({name: {"file_name": f"{name}.json"} for name in ("sums", "same")})
        )

    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        own = {"model_name_or_path": str(self.folder / "model"), "dataset_dir": str(self.folder)}
        return CPU_RECIPE | own | {"output_dir": str(self.folder / name)} | changes

    def train(
        self, name: str, *arguments: str, env: dict[str, str] | None = None, **changes: Any
    ) -> tuple[list[dict[str, float]], str]:
        """(what was logged, everything that was printed)."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        recipe = str(self.recipe(name, **changes))
        done = self.call(str(BIN / "llamafactory-cli"), "train", recipe, *arguments, env=env)
        state = json.loads((self.folder / name / "trainer_state.json").read_text())
        return state["log_history"], done.stdout + done.stderr
