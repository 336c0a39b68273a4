"""A small model learns a new skill in the real Axolotl, by SFT and by OTR: two twin recipes, one comparison.

    make quickstart                        # sets up everything first; afterwards a few minutes on 2 cores

Leaves a table in the terminal, quickstart/results.json and quickstart/results.png. What is done is not done again;
a run that was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from benchmarks import measuring
from benchmarks.hosts.axolotl import ENV
from benchmarks.hosts.host import BIN
from benchmarks.quickstart.pretrain import HARDER_SIZES, NEW, NEW_EXAMPLES, NEW_SIZES, OLD, OLD_SIZES, SMALL
from benchmarks.string_skills import Example, examples

FOLDER = Path("quickstart")  # as the recipes say
METHODS = ("sft", "otr")
ASKED = 300


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    start = time.perf_counter()
    columns = (TextColumn("{task.description:34}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()) as bars:
        tasks = [bars.add_task(f"axolotl train {recipe(method).name}", start=False, total=None) for method in METHODS]
        tasks.append(bars.add_task("asking the models", start=False, total=None))
        for method, task in zip(METHODS, tasks, strict=False):
            train(method, bars, task)
        scores = ask_everyone(bars, tasks[-1])
    results = measuring.circumstances(("otr-plugin", "axolotl", "torch", "transformers"))
    results |= {
        "asked": {what: len(questions) for what, questions in tests().items()},
        "scores": scores,
        "training": {method: log_of(method) for method in METHODS},
    }
    (FOLDER / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, FOLDER / "results.png")
    console = Console()
    console.print(table(results))
    console.print(f"{FOLDER}/results.png and {FOLDER}/results.json ({time.perf_counter() - start:.0f} s)")


# Training


def recipe(method: str) -> Path:
    return SMALL.parent / "axolotl" / f"quickstart-{method}.yaml"


def train(method: str, bars: Progress, task: TaskID) -> None:
    """`axolotl train`, as a person would call it."""
    folder, log = FOLDER / method, FOLDER / f"{method}.log"
    done = folder / "done"
    bars.start_task(task)
    begin(folder, recipe(method).read_text())
    settings = yaml.safe_load(recipe(method).read_text())
    steps = math.ceil(NEW_EXAMPLES / settings["micro_batch_size"]) * settings["num_epochs"]
    if not done.exists():
        with log.open("w") as out:
            command = [str(BIN / "axolotl"), "train", str(recipe(method))]
            process = subprocess.Popen(command, env=ENV, stdout=out, stderr=out)
        try:
            while process.poll() is None:
                time.sleep(0.3)
                for step in re.findall(rf"(\d+)/{steps} \[", log.read_text(errors="replace"))[-1:]:
                    bars.update(task, completed=int(step), total=steps)  # as the trainer's own bar has it
        finally:
            process.terminate()
        if process.returncode:
            bars.stop()
            sys.exit(
                f"{log.read_text(errors='replace')[-3000:]}\n`{' '.join(command)}` failed; all it said is in {log}"
            )
        done.touch()
    bars.update(task, completed=1, total=1)


def begin(folder: Path, recipe: str) -> None:
    """What another recipe left there is no part of this run."""
    kept = folder / "recipe.yaml"
    if not kept.exists() or kept.read_text() != recipe:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kept.write_text(recipe)
    for checkpoint in folder.glob("checkpoint-*"):
        if not whole(checkpoint):
            shutil.rmtree(checkpoint)


def whole(checkpoint: Path) -> bool:
    """Axolotl would resume from one that was being written when the run was broken off."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())  # written last
    except (OSError, ValueError):
        return False
    return True


def checkpoints(method: str) -> list[Path]:
    return sorted((FOLDER / method).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def log_of(method: str) -> list[dict[str, float]]:
    state = json.loads((checkpoints(method)[-1] / "trainer_state.json").read_text())
    return [entry for entry in state["log_history"] if "loss" in entry]


# Evaluation


@functools.cache
def tests() -> dict[str, list[Example]]:
    """The new skill, harder cases of it than were trained, and the skills of before: none was trained."""

    def ask(skill: str, sizes: range, count: int) -> list[Example]:
        return list(islice(examples(skill, sizes, seed=2, test=True), count))

    old = [pair for skill in OLD for pair in ask(skill, OLD_SIZES, ASKED // len(OLD))]
    return {
        "new skill": ask(NEW, NEW_SIZES, ASKED),
        "harder cases of it": ask(NEW, HARDER_SIZES, ASKED),
        "old skills": old,
    }


def ask_everyone(bars: Progress, task: TaskID) -> dict[str, list[dict[str, float]]]:
    """Shares of right answers of the model before, and after every epoch of each method."""
    models = {"base": [SMALL / "model"]} | {method: checkpoints(method) for method in METHODS}
    bars.start_task(task)
    bars.update(task, total=sum(map(len, models.values())))
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for name, folders in models.items():
        for folder in folders:
            kept = FOLDER / "base.scores.json" if name == "base" else folder / "scores.json"
            if not kept.exists():
                kept.write_text(json.dumps(ask(folder)))
            scores[name].append(json.loads(kept.read_text()))
            bars.advance(task)
    return scores


def ask(folder: Path) -> dict[str, float]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from benchmarks.quickstart.exact_match import accuracy

    disable_progress_bar()  # it would break into ours
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(SMALL / "model")
    return {what: accuracy(model.float(), tokenizer, questions) for what, questions in tests().items()}


# What people see


def table(results: dict[str, Any]) -> Table:
    shown = Table(title="Right answers", caption="one seed: differences of a few points are noise")
    head, *rows = cells(results)
    for i, name in enumerate(head):
        shown.add_column(name, justify="right" if i else "left")
    for row in rows:
        shown.add_row(*row)
    return shown


def readme_figures(results: dict[str, Any]) -> list[str]:
    head, *rows = (f"| {' | '.join(row)} |" for row in cells(results))
    return [head, "|---|---:|---:|---:|", *rows, "", measuring.made(results)]


def cells(results: dict[str, Any]) -> list[list[str]]:
    head = ["", *(called(name) for name in results["scores"])]
    rows = [
        [f"{what}, {asked} asked", *(f"{course[-1][what]:.1%}" for course in results["scores"].values())]
        for what, asked in results["asked"].items()
    ]
    return [head, *rows]


def called(name: str) -> str:
    return "before" if name == "base" else f"after {name.upper()}"


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"base": "#9a9a9a", "sft": "#3b6fb6", "otr": "#d1642e"}
    scores = results["scores"]
    figure, (nll, course, bars) = pyplot.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    for method in METHODS:
        log = results["training"][method]
        nll.plot([e["step"] for e in log], [e["loss"] for e in log], color=colours[method], label=method.upper())
        for what, style in zip(results["asked"], ("-", ":", "--"), strict=True):
            shares = [100 * s[what] for s in (*scores["base"], *scores[method])]
            course.plot(range(len(shares)), shares, style, color=colours[method], label=f"{method.upper()}: {what}")
    nll.set(title="Training loss", xlabel="step", ylabel="NLL of an answer's token", yscale="log")
    course.set(title="Right answers over training", xlabel="epoch", ylabel="%", ylim=(-2, 102))
    for i, (name, course_of) in enumerate(scores.items()):
        last = course_of[-1]
        at = [x + (i - 1) * 0.27 for x in range(len(last))]
        shown = bars.bar(at, [100 * s for s in last.values()], 0.25, color=colours[name], label=called(name))
        bars.bar_label(shown, fmt="%.0f", fontsize=8)
    bars.set(title="Right answers at the end", ylabel="%", ylim=(0, 108))
    bars.set_xticks(range(len(last)), list(last))
    for axis, columns in ((nll, 2), (course, 2), (bars, 3)):
        axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
