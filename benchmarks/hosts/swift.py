"""Runs the real `swift sft` on a model of its own, on a CPU; or many recipes in one process, which starts once.

python -m benchmarks.hosts.swift OUT.json RECIPE.yaml ... does what the command does with each recipe, and writes
what came of it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.hosts.host import BIN, Host
from benchmarks.paths import ROOT

ENV = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
CPU_RECIPE: dict[str, Any] = {
    "ENV": {"USE_HF": 1},
    "model_type": "llama",
    "template": "dummy",
    "tuner_type": "full",
    "max_length": 64,
    "add_version": False,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "max_steps": 6,
    "learning_rate": 0.001,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "torch_dtype": "float32",
    "fp16": False,
    "dataloader_num_workers": 0,
    "check_model": False,
    "seed": 3,
}


class Swift(Host):
    ENV = ENV

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        draw = random.Random(0)
        pairs = [(draw.randint(0, 99), draw.randint(0, 99)) for _ in range(96)]
        rows = [json.dumps({"query": f"{a}+{b}=", "response": f"{a + b}."}) for a, b in pairs]
        (folder / "sums.jsonl").write_text("\n".join(rows))

    def settings(self, name: str, env: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        own = {"model": str(self.folder / "model"), "dataset": str(self.folder / "sums.jsonl")}
        own |= {"ENV": CPU_RECIPE["ENV"] | (env or {}), "output_dir": str(self.folder / name)}
        return CPU_RECIPE | own | changes

    def train(
        self, name: str, *arguments: str, shell: dict[str, str] | None = None, **changes: Any
    ) -> tuple[list[dict[str, float]], str]:
        """(what was logged, everything that was printed)."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        recipe = str(self.recipe(name, **changes))
        done = self.call(str(BIN / "swift"), "sft", recipe, *arguments, env=shell)
        return log_of(self.folder / name), done.stdout + done.stderr

    def several(self, recipes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """For each: `log`, what swift `said`, and the `error` that ended it, if one did."""
        paths = [str(self.recipe(name, **changes)) for name, changes in recipes.items()]
        out = self.folder / "several.json"
        self.call(sys.executable, "-m", "benchmarks.hosts.swift", str(out), *paths)
        return dict(zip(recipes, json.loads(out.read_text()), strict=True))


def log_of(run: Path) -> list[dict[str, float]]:
    """What swift itself keeps of a run. Its last line is a summary, with what was logged to every digit."""
    lines = (run / "logging.jsonl").read_text().splitlines()
    log: list[dict[str, float]] = json.loads(lines[-1])["log_history"]
    return log


def run_here(recipe: str) -> dict[str, Any]:
    from swift.arguments import SftArguments
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import sft_main
    from swift.utils import get_logger

    # Only this: that there is a flash attention, which no CPU has. What is packed is the same without it.
    SftArguments._check_padding_free = lambda args: setattr(args, "padding_free", args.padding_free or args.packing)
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    get_logger().addHandler(listener)
    before, argv = dict(os.environ), [recipe]
    result: dict[str, Any] = {"log": [], "error": ""}
    try:
        parse_yaml_args(argv)
        result["log"] = sft_main(argv)["log_history"]
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    get_logger().removeHandler(listener)
    os.environ.clear()
    os.environ.update(before)
    return result | {"said": "\n".join(said)}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps([run_here(recipe) for recipe in sys.argv[2:]]))
