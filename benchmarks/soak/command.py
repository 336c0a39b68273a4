"""A soak: 20,000 optimiser steps of a toy model in a host, with OTR and without, in turns of some hundred steps.

It runs in the host's environment, for instance `.nox/trl/bin/python -m benchmarks soak trl`. Learning rate 0 keeps the
model as it is, so every metric has to stay where it is, and the loss has to be that of the run without OTR in every
line of the log. The two runs take turns, so that both see the same neighbours on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.hosts.driver import make_model
from benchmarks.paths import RESULTS, ROOT
from benchmarks.soak.trend import Trend, trend
from otr_plugin.metrics import PREFIX

HOSTS = {"trl": "trl", "llamafactory": "llamafactory"}  # and their packages
EVALUATED = {"trl": {"test_split_size": 0.2}, "llamafactory": {"val_size": 0.2}}
BLOCK = 200  # steps
WARM_UP = 0.2  # the share of the blocks that is left out: caches fill, and the allocator grows
PER = 10_000  # steps, the unit of the slopes


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/soak-HOST.json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = soak(args.host, Path(folder), args.steps, BLOCK)
    made = provenance.collect([HOSTS[args.host], "otr-plugin", "transformers", "torch"])
    result = made | {"host": args.host, "steps": args.steps, "block": BLOCK, "runs": runs}
    print("\n".join([*table([result]), "", *metrics_table([result])]))
    if args.keep:
        (RESULTS / f"soak-{args.host}.json").write_text(json.dumps(result, indent=1) + "\n")


def soak(host: str, folder: Path, steps: int, block: int) -> dict[str, Any]:
    """Trains both recipes in turns; the measurements and the log of each."""
    own = import_module(f"benchmarks.hosts.features.{host}").HOST
    driver = own.driver(folder)
    make_model(folder / "toy", num_hidden_layers=1, hidden_size=32, intermediate_size=32)
    shared = EVALUATED[host] | {
        "model_name_or_path": str(folder / "toy"),
        "max_steps": steps,
        "learning_rate": 0.0,
        "logging_steps": max(1, steps // 200),
        "save_strategy": "steps",
        "save_steps": steps // 10,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": steps // 10,
    }
    recipes = {"plain": shared, "otr": shared | {"plugins": ["otr"], "otr": {}}}
    processes = {name: _Run(host, driver.recipe(name, **recipe), block, driver.ENV) for name, recipe in recipes.items()}
    waiting = dict(processes)
    while waiting:
        for name in list(waiting):
            if not waiting[name].turn():
                del waiting[name]
    return {name: one.result() for name, one in processes.items()}


class _Run:
    """A process that trains one recipe and waits after every block."""

    def __init__(self, host: str, recipe: Path, block: int, env: dict[str, str]) -> None:
        read, self.write = os.pipe()
        self.read, write = os.pipe()
        self.recipe, self.printed = recipe, recipe.with_suffix(".txt")
        with self.printed.open("w") as printed:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.soak.worker", host, *map(str, (recipe, block, read, write))],
                cwd=recipe.parent,
                env=env | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stdout=printed,
                stderr=subprocess.STDOUT,
                pass_fds=(read, write),
            )
        os.close(read)
        os.close(write)

    def turn(self) -> bool:
        """Lets the process run until its next block ends; False if the process has ended."""
        try:
            os.write(self.write, b".")
        except BrokenPipeError:
            return False
        return os.read(self.read, 1) != b""

    def result(self) -> dict[str, Any]:
        if self.process.wait():
            raise RuntimeError(f"{self.recipe.stem} failed:\n{self.printed.read_text()[-3000:]}")
        measured: dict[str, Any] = json.loads(self.recipe.with_suffix(".measured.json").read_text())
        log = measured.pop("log")
        series: dict[str, list[float]] = {}
        for entry in log:
            for name, value in entry.items():
                if name in ("loss", "eval_loss") or name.startswith(PREFIX):
                    series.setdefault(name, []).append(value)
        return {name: [round(value, 6) for value in values] for name, values in measured.items()} | {"log": series}


# The page, from the result files. Slopes are per 10,000 steps, each with the half width of its 95% interval.

Result = dict[str, Any]
TITLES = {"trl": "TRL", "llamafactory": "LLaMA-Factory"}
RUNS = {"plain": "without OTR", "otr": "with OTR"}


def slopes_of(folder: Path) -> list[str]:
    """The table of slopes, and what produced the figures."""
    results = _read(folder)
    return [*table(results), "", *(f"{TITLES[one['host']]}: {provenance.describe(one)}  " for one in results)]


def metrics_of(folder: Path) -> list[str]:
    """The table of the metrics' slopes, and the losses beside those of the run without OTR."""
    return metrics_table(_read(folder))


def _read(folder: Path) -> list[Result]:
    return [json.loads((folder / f"soak-{host}.json").read_text()) for host in HOSTS]


def slope(result: Result, values: list[float], warm_up: float = WARM_UP) -> Trend:
    """The slope of values that were measured at equal distances over the run."""
    every = result["steps"] / len(values) / PER
    skipped = int(warm_up * len(values))
    return trend([every * i for i in range(skipped, len(values))], values[skipped:])


def of_metrics(result: Result) -> dict[str, Trend]:
    log = result["runs"]["otr"]["log"]
    return {name: slope(result, values, 0.0) for name, values in log.items() if name.startswith(PREFIX)}


def table(results: list[Result]) -> list[str]:
    """The slopes of memory, objects and step time."""
    columns = (
        "host",
        "run",
        "MB per 10,000 steps",
        "Python objects per 10,000 steps",
        "ms a step",
        "ms per 10,000 steps",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        runs = [result["runs"][run] for run in RUNS]
        both = {name: [b - a for a, b in zip(*(one[name] for one in runs), strict=True)] for name in MEMORY}
        for run, values in (*zip(RUNS.values(), runs, strict=True), ("difference", both)):
            cells = [TITLES[result["host"]], run, *(_interval(result, values[name], MEMORY[name]) for name in MEMORY)]
            if "milliseconds" in values:
                cells += [f"{_median(values['milliseconds']):.2f}", _interval(result, values["milliseconds"], 3)]
            lines.append(f"| {' | '.join(cells)} |" + " | |" * (len(cells) == 4))
    for result in results:
        times = [result["runs"][run]["milliseconds"] for run in RUNS]
        ratio = [b / a for a, b in zip(*times, strict=True)]
        lines += [
            "",
            f"{TITLES[result['host']]}: a step with OTR takes {_median(ratio):.2f} times as long as one without.",
        ]
        lines[-1] += f" The ratio changes by {_interval(result, ratio, 3)} per 10,000 steps."
    return lines


MEMORY = {"megabytes": 2, "objects": 0}  # and the digits of the slopes


def _interval(result: Result, values: list[float], digits: int) -> str:
    found = slope(result, values)
    return f"{found.slope:+,.{digits}f} ± {found.half_width:,.{digits}f}"


def _median(values: list[float]) -> float:
    return statistics.median(values[int(WARM_UP * len(values)) :])


def metrics_table(results: list[Result]) -> list[str]:
    """The slopes of the metrics."""
    header = "".join(f" {TITLES[one['host']]}, mean | its change per 10,000 steps |" for one in results)
    lines = ["| metric |" + header, "|---" * (1 + 2 * len(results)) + "|"]
    found = [of_metrics(one) for one in results]
    for name in found[0]:
        cells = ""
        for one, slopes in zip(results, found, strict=True):
            mean = statistics.fmean(one["runs"]["otr"]["log"][name])
            cells += f" {mean:.5f} | {slopes[name].slope:+.1e} ± {slopes[name].half_width:.1e} |"
        lines.append(f"| `{name}` |{cells}")
    for one, slopes in zip(results, found, strict=True):
        still = sum(each.contains_zero for each in slopes.values())
        lines.append("")
        lines.append(
            f"{TITLES[one['host']]}: {still} of {len(slopes)} intervals contain 0. Logged losses differ from those of "
            f"the run without OTR by at most {largest_difference(one):.0e} of the loss."
        )
    return lines


def largest_difference(result: Result) -> float:
    """Of the losses of training and evaluation, with OTR and without, as a share of the loss."""
    otr, plain = (result["runs"][run]["log"] for run in ("otr", "plain"))
    pairs = [pair for name in ("loss", "eval_loss") for pair in zip(otr[name], plain[name], strict=True)]
    return float(max(abs(a - b) / abs(b) for a, b in pairs))
