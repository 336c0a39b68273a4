"""A soak: 20,000 optimiser steps of a toy model in a host, with OTR and without, in turns of some hundred steps.

It runs in the host's environment, for instance `.nox/trl/bin/python -m benchmarks soak trl`. Learning rate 0 keeps the
model as it is, so every metric has to stay where it is, and the loss has to be that of the run without OTR in every
line of the log. The two runs take turns, so that both see the same neighbours on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.hosts.driver import make_model
from benchmarks.paths import RESULTS, ROOT
from benchmarks.soak.trend import trend
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
    result = made | {"host": args.host, "steps": args.steps, "block": BLOCK, "runs": runs} | summary(runs, BLOCK)
    print("\n".join(table([result])), *drifts(result), sep="\n")
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
        "logging_steps": steps // 200,
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


def summary(runs: dict[str, Any], block: int) -> dict[str, Any]:
    """The slopes per 10,000 steps after the warm-up, each with the half width of its 95% interval."""
    found: dict[str, Any] = {"per_10000_steps": {}}
    slopes = found["per_10000_steps"]
    for quantity in ("megabytes", "milliseconds", "objects"):
        plain, otr = ([float(x) for x in runs[name][quantity]] for name in ("plain", "otr"))
        rows = {"plain": plain, "otr": otr, "otr - plain": [b - a for a, b in zip(plain, otr, strict=True)]}
        slopes[quantity] = {
            name: _slope(values, block * len(runs["otr"]["megabytes"])) for name, values in rows.items()
        }
    log = runs["otr"]["log"]
    steps = block * len(runs["otr"]["megabytes"])
    slopes["metrics"] = {name: _slope(log[name], steps, 0.0) for name in log if name.startswith(PREFIX)}
    found["medians"] = {
        name: {quantity: _median(one[quantity]) for quantity in ("megabytes", "milliseconds", "objects")}
        for name, one in runs.items()
    }
    found["means"] = {name: sum(log[name]) / len(log[name]) for name in slopes["metrics"]}
    plain_log = runs["plain"]["log"]
    pairs = [pair for name in ("loss", "eval_loss") for pair in zip(log[name], plain_log[name], strict=True)]
    found["log_lines"] = len(pairs)
    found["largest_difference_from_plain"] = max(abs(a - b) / abs(b) for a, b in pairs)
    nll = zip(log[f"{PREFIX}nll"], log["loss"], strict=True)
    found["largest_difference_of_nll_and_loss"] = max(abs(a - b) / abs(b) for a, b in nll)
    return found


def _slope(values: list[float], steps: int, warm_up: float = WARM_UP) -> list[float]:
    every = steps / len(values) / PER
    skipped = int(warm_up * len(values))
    return list(trend([every * i for i in range(skipped, len(values))], values[skipped:]))


def _median(values: list[float]) -> float:
    return sorted(values[int(WARM_UP * len(values)) :])[int((1 - WARM_UP) * len(values)) // 2]


def drifts(result: dict[str, Any]) -> list[str]:
    """The metrics whose interval does not contain 0."""
    found = result["per_10000_steps"]["metrics"]
    return [f"{name} drifts: {slope:.2e} ± {half:.1e}" for name, (slope, half) in found.items() if abs(slope) > half]


TITLES = {"trl": "TRL", "llamafactory": "LLaMA-Factory"}


def slopes_of(folder: Path) -> list[str]:
    """The table of slopes, from the result files."""
    results = _read(folder)
    return [*table(results), "", *(f"{TITLES[one['host']]}: {provenance.describe(one)}  " for one in results)]


def metrics_of(folder: Path) -> list[str]:
    """The table of the metrics' slopes, and the losses beside those of the run without OTR."""
    results = _read(folder)
    names = list(results[0]["per_10000_steps"]["metrics"])
    lines = [
        "| metric | "
        + " | ".join(f"{TITLES[one['host']]}, mean | its change per 10,000 steps" for one in results)
        + " |",
        "|---" * (1 + 2 * len(results)) + "|",
    ]
    for name in names:
        cells = []
        for one in results:
            slope, half = one["per_10000_steps"]["metrics"][name]
            cells += [f"{one['means'][name]:.5f}", f"{slope:+.1e} ± {half:.1e}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines + [line for one in results for line in ("", _sentence(one))]


def _sentence(result: dict[str, Any]) -> str:
    names, found = result["per_10000_steps"]["metrics"], drifts(result)
    return (
        f"{TITLES[result['host']]}: the interval of {len(names) - len(found)} of {len(names)} metrics contains 0. Over "
        f"{result['log_lines']} logged losses, the largest difference from the run without OTR is "
        f"{result['largest_difference_from_plain']:.1e} of the loss."
    )


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"soak-{host}.json").read_text()) for host in HOSTS]


def table(results: list[dict[str, Any]]) -> list[str]:
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
        slopes = result["per_10000_steps"]
        for name in ("plain", "otr", "otr - plain"):
            cells = [
                f"{slope:+.{digits}f} ± {half:.{digits}f}"
                for quantity, digits in (("megabytes", 2), ("objects", 0), ("milliseconds", 3))
                for slope, half in [slopes[quantity][name]]
            ]
            medians = result["medians"]
            step = f"{medians[name]['milliseconds']:.2f}" if name in medians else ""
            title = {"plain": "without OTR", "otr": "with OTR", "otr - plain": "difference"}[name]
            lines.append(f"| {TITLES[result['host']]} | {title} | {cells[0]} | {cells[1]} | {step} | {cells[2]} |")
    return lines
