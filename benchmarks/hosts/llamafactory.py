"""Runs the real `llamafactory-cli` on a tiny model, on a CPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.hosts.driver import BIN, CPU_ENVIRONMENT, CPU_TRAINER_RECIPE, HostDriver, sums

CPU_RECIPE: dict[str, Any] = CPU_TRAINER_RECIPE | {
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "dataset": "sums",
    "template": "empty",
    "cutoff_len": 64,
    "preprocessing_num_workers": 1,
    "overwrite_output_dir": True,
}


class LlamaFactory(HostDriver):
    """Trains on the data set "sums"; a test can add the data set "same" by writing same.json."""

    ENV = CPU_ENVIRONMENT | {"OMP_NUM_THREADS": "1"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows = [{"instruction": q, "input": "", "output": a} for q, a in sums()]
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
        """Runs `llamafactory-cli train`; returns the log history, and all that was printed."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        recipe = str(self.recipe(name, **changes))
        done = self.call(str(BIN / "llamafactory-cli"), "train", recipe, *arguments, env=env)
        state = json.loads((self.folder / name / "trainer_state.json").read_text())
        return state["log_history"], done.stdout + done.stderr
