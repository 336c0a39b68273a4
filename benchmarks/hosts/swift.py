"""Runs the real `swift sft` on a tiny model, on a CPU; or several recipes in one process, to import ms-swift once."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.hosts.driver import BIN, CPU_ENVIRONMENT, CPU_TRAINER_RECIPE, HostDriver, sums, write_jsonl
from benchmarks.paths import ROOT

CPU_RECIPE: dict[str, Any] = CPU_TRAINER_RECIPE | {
    "ENV": {"USE_HF": 1},
    "model_type": "llama",
    "template": "dummy",
    "tuner_type": "full",
    "max_length": 64,
    "add_version": False,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.001,
    "torch_dtype": "float32",
    "fp16": False,
    "dataloader_num_workers": 0,
    "check_model": False,
}


class Swift(HostDriver):
    """Trains on sums.jsonl."""

    ENV = CPU_ENVIRONMENT | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        write_jsonl(folder / "sums.jsonl", ({"query": q, "response": a} for q, a in sums()))

    def settings(self, name: str, env: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        own = {"model": str(self.folder / "model"), "dataset": str(self.folder / "sums.jsonl")}
        own |= {"ENV": CPU_RECIPE["ENV"] | (env or {}), "output_dir": str(self.folder / name)}
        return CPU_RECIPE | own | changes

    def train(
        self, name: str, *arguments: str, shell: dict[str, str] | None = None, **changes: Any
    ) -> tuple[list[dict[str, float]], str]:
        """Runs `swift sft`; returns the log history, and all that was printed. `shell` is added to the environment."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        recipe = str(self.recipe(name, **changes))
        done = self.call(str(BIN / "swift"), "sft", recipe, *arguments, env=shell)
        return log_of(self.folder / name), done.stdout + done.stderr

    def several(
        self, recipes: dict[str, dict[str, Any]], env: dict[str, str] | None = None, preamble: str = ""
    ) -> dict[str, dict[str, Any]]:
        """Trains the recipes one after another in one process; returns the results of `run_here` by recipe.

        `preamble` is Python code that runs first. "printed" is added to each result: the output of the whole process.
        """
        paths = [str(self.recipe(name, **changes)) for name, changes in recipes.items()]
        out = self.folder / "several.json"
        script = preamble + "from benchmarks.hosts.swift import main; main()"
        done = self.call(sys.executable, "-c", script, str(out), *paths, env=env)
        results = [result | {"printed": done.stdout + done.stderr} for result in json.loads(out.read_text())]
        return dict(zip(recipes, results, strict=True))


def log_of(run: Path) -> list[dict[str, float]]:
    """Returns the log history of the run in this folder.

    ms-swift writes it to logging.jsonl, whose last line is a summary with every value at full precision.
    """
    lines = (run / "logging.jsonl").read_text().splitlines()
    log: list[dict[str, float]] = json.loads(lines[-1])["log_history"]
    return log


def run_here(recipe: str) -> dict[str, Any]:
    """Does in this process what `swift sft RECIPE` does.

    Returns the log history ("log"), the messages of ms-swift's logger ("messages"), and the exception that ended the
    run, or "" ("error").
    """
    from swift.arguments import SftArguments
    from swift.cli.main import parse_yaml_args
    from swift.pipelines import sft_main
    from swift.utils import get_logger

    # Skips the check that flash attention is installed, which needs a GPU. Packing itself works without it.
    SftArguments._check_padding_free = lambda args: setattr(args, "padding_free", args.padding_free or args.packing)
    messages: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    get_logger().addHandler(listener)
    before, argv = dict(os.environ), [recipe]
    result: dict[str, Any] = {"log": [], "error": ""}
    try:
        parse_yaml_args(argv)
        result["log"] = sft_main(argv)["log_history"]
    except Exception as error:
        result["error"] = f"{type(error).__name__}: {error}"
    get_logger().removeHandler(listener)
    # A recipe sets environment variables under ENV; the next recipe starts without them.
    os.environ.clear()
    os.environ.update(before)
    return result | {"messages": "\n".join(messages)}


def main() -> None:
    out, *recipes = sys.argv[1:]
    Path(out).write_text(json.dumps([run_here(recipe) for recipe in recipes]))
