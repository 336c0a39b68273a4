"""The objectives of a host beside ours: time and memory on the same inputs, and runs of the host with each.

Runs in the environment of the host. Its functions get whole logits, as the host calls them; TRL's, from 1.16 on, gets
what its fused head returns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor

from benchmarks import provenance
from benchmarks.hosts import objectives as runs
from benchmarks.paths import RESULTS
from benchmarks.performance import contenders, memory, timing
from benchmarks.performance.contenders import CROSS_ENTROPY, FLOOR, Case, Contender, Size
from otr_plugin.loss.checks import IGNORE_INDEX

SIZE = Size(512, 1024, 151936)
SMALL = Size(32, 16, 500)
PACKAGES = {"llamafactory": "llamafactory", "swift": "ms-swift", "axolotl": "axolotl", "trl": "trl"}
TITLES = {"llamafactory": "LLaMA-Factory", "swift": "ms-swift", "axolotl": "Axolotl", "trl": "TRL"}
ROUNDS = 5  # a page shows no times that are medians of fewer
BESIDE = (FLOOR, CROSS_ENTROPY, "ours: sft", "ours: dft", "ours: power", "ours: eaft")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"counted runs of each function (default {ROUNDS})")
    parser.add_argument("--small", action="store_true", help="a tiny size, only to check that the benchmark runs")
    parser.add_argument("--out", type=Path, help="result file, without its suffix (default results/objectives-HOST)")
    parser.set_defaults(run=run)


def installed_host() -> str:
    for name in PACKAGES:
        if importlib.util.find_spec(name) is not None:
            return name
    raise SystemExit(f"none of these is installed here: {', '.join(PACKAGES)}")


def available() -> dict[str, Contender]:
    """The host's functions, by host and objective."""
    return {name: _step(function) for name, function in host_functions(installed_host()).items()}


def _step(function: Callable[[Case], Tensor]) -> Contender:
    def step(case: Case) -> None:
        function(case).backward()

    return step


def host_functions(host: str) -> dict[str, Callable[[Case], Tensor]]:
    """The host's own functions, by host and objective."""
    title = TITLES[host]
    if host == "llamafactory":
        from llamafactory.train.trainer_utils import dft_loss_func, eaft_loss_func

        def on_mapping(function: Any) -> Callable[[Case], Tensor]:
            return lambda case: function({"logits": _logits(case)}, _labels(case), _trained(case))

        return {f"{title}: dft": on_mapping(dft_loss_func), f"{title}: eaft": on_mapping(eaft_loss_func)}
    if host == "swift":
        from swift.trainers import per_token_loss_func

        def dft(case: Case) -> Tensor:
            outputs = SimpleNamespace(logits=_logits(case))
            total: Tensor = per_token_loss_func(outputs, _labels(case), enable_dft_loss=True).sum()
            return total / _trained(case)

        return {f"{title}: dft": dft}
    if host == "axolotl":
        from axolotl.monkeypatch.loss.eaft import eaft_loss
        from trl.trainer.sft_trainer import dft_loss

        def on_outputs(function: Any) -> Callable[[Case], Tensor]:
            return lambda case: function(SimpleNamespace(logits=_logits(case)), _labels(case), _trained(case))

        return {f"{title}: eaft": on_outputs(eaft_loss), "TRL 1.9: dft": on_outputs(dft_loss)}
    from trl.kernels import ChunkedLogProbFunction

    def fused_dft(case: Case) -> Tensor:
        labels = case.labels
        targets = labels.masked_fill(labels == IGNORE_INDEX, 0)
        outputs = ("entropy", "is_top1")
        log_probs, *_ = ChunkedLogProbFunction.apply(
            case.hidden, case.weight, None, targets, 1.0, 256, None, 1.0, outputs
        )
        log_probs = log_probs * (labels != IGNORE_INDEX)
        loss: Tensor = -(log_probs * log_probs.exp().detach()).sum() / _trained(case)
        return loss

    return {f"{title}: dft": fused_dft}


def _logits(case: Case) -> Tensor:
    return (case.hidden @ case.weight.t()).unsqueeze(0)


def _labels(case: Case) -> Tensor:
    """Labels that the host still shifts: the last position of a Case then has none."""
    return torch.nn.functional.pad(case.labels[:-1], (1, 0), value=IGNORE_INDEX).unsqueeze(0)


def _trained(case: Case) -> Tensor:
    return (case.labels != IGNORE_INDEX).sum()


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # so that the CPU time, which other programs do not lengthen, is that of a quiet machine
    host, size = installed_host(), SMALL if args.small else SIZE
    out = args.out or RESULTS / f"objectives-{host}"
    own, everybodys = available(), contenders.available()
    functions = {name: everybodys[name] for name in BESIDE} | own
    case = Case.make(size, trainable=False)
    case.labels[-1] = IGNORE_INDEX
    results: dict[str, Any] = provenance.collect((PACKAGES[host], "trl", "transformers", "torch"))
    results |= {"host": host, "dtype": "float32", "rounds": args.rounds, "n": size.n, "d": size.d, "v": size.v}
    seconds = timing.interleaved_seconds(case, functions, args.rounds, lambda: None, time.process_time)
    results["functions"] = {}
    for name in functions:
        table = "objectives" if name in own else "contenders"
        results["functions"][name] = cell = {
            "seconds": statistics.median(seconds[name]),
            "ratio": timing.median_ratio(seconds[name], seconds[FLOOR]),
            "megabytes": memory.peak_megabytes(name, size, trainable=False, table=table),
        }
        if name in own:
            cell["beside ours"] = timing.median_ratio(seconds[name], seconds[f"ours: {name.split(': ')[1]}"])
    del case
    with tempfile.TemporaryDirectory() as folder:
        results["runs"] = runs.ratios(host, runs.logs(host, runs.driver_of(host, Path(folder))))
    page = render(results)
    provenance.write_results(out, results, page)
    Console().print(Markdown(page))
    print(f"written to {out}.json and .md")


def render(results: dict[str, Any]) -> str:
    """Returns the Markdown page of the results."""
    title = TITLES[results["host"]]
    method = (
        f"{results['dtype']}, {results['n']} positions of width {results['d']}, a vocabulary of {results['v']} and a "
        f"frozen head; forward and backward. Time is the CPU time of one thread: the median, over {results['rounds']} "
        "rounds in which all functions take turns, of the ratio to two bare GEMMs of the same round. Memory is the peak"
        " of one step above what its inputs take, in a process of its own."
    )
    lines = [f"# {title}'s objectives beside ours", "", provenance.describe(results), "", method, ""]
    lines += ["| | time | memory |", "|---|---:|---:|", *_rows(results)]
    lines += ["", "## Runs", "", "The host's losses and gradient norms as multiples of ours, step by step.", ""]
    lines += ["| | by the formulas | losses | gradient norms |", "|---|---:|---:|---:|", *_runs(results)]
    return "\n".join(lines) + "\n"


def _rows(results: dict[str, Any]) -> list[str]:
    return [
        f"| {name} | {cell['ratio']:.2f} × ({cell['seconds']:.2f} s) | {cell['megabytes']:,.0f} MB |"
        for name, cell in results["functions"].items()
    ]


def _runs(results: dict[str, Any]) -> list[str]:
    return [
        f"| {name} | {each['factor']:.5f} | {_range(each['losses'])} | {_range(each['norms'])} |"
        for name, each in results["runs"].items()
    ]


def _range(values: list[float]) -> str:
    low, high = (f"{value:.5f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("objectives-*.json"))]


def functions_of_hosts(folder: Path) -> list[str]:
    """Returns the lines of the table in docs/objectives.md of each host's functions, beside ours in the same run."""
    lines = ["| function | its CPU time, as a multiple of ours | its memory | ours | whole cross entropy |"]
    lines += ["|---|---:|---:|---:|---:|"]
    sources = []
    for results in _results(folder):
        cells = results["functions"]
        for name, cell in cells.items():
            if "beside ours" in cell:
                twin = cells[f"ours: {name.split(': ')[1]}"]
                memories = (f"{each['megabytes']:,.0f} MB" for each in (cell, twin, cells[CROSS_ENTROPY]))
                times = f"{cell['beside ours']:.2f} ×" if results["rounds"] >= ROUNDS else "not measured yet"
                lines.append(f"| {name} | {times} | " + " | ".join(memories) + " |")
        sources += ["", provenance.describe(results)]
    return lines + sources


def our_objectives(folder: Path) -> list[str]:
    """Returns the lines of the table in docs/objectives.md of this package's objectives beside each other."""
    names = [name for name in BESIDE if name.startswith("ours")]
    lines = [f"| in the run with | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for results in _results(folder):
        if results["rounds"] >= ROUNDS:
            cells = (f"{results['functions'][name]['ratio']:.2f} ×" for name in names)
            lines.append(f"| {TITLES[results['host']]} | {' | '.join(cells)} |")
    return lines


def runs_of_hosts(folder: Path) -> list[str]:
    """Returns the lines of the table in docs/objectives.md of the hosts' runs."""
    lines = ["| host | objective | by the formulas | losses | gradient norms | eval_loss: its own, ours |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    sources = []
    for results in _results(folder):
        package = PACKAGES[results["host"]]
        title = f"{TITLES[results['host']]} {results['versions'][package]}"
        for name, each in results["runs"].items():
            alpha = f", alpha {each['ours']['alpha']}" if "alpha" in each["ours"] else ""
            evaluated = f"{each['eval_loss']['own']:.3f}, {each['eval_loss']['ours']:.3f}"
            numbers = f"{each['factor']:.5f} | {_range(each['losses'])} | {_range(each['norms'])} | {evaluated}"
            lines.append(f"| {title} | {name}{alpha} | {numbers} |")
        sources += ["", provenance.describe(results)]
    return lines + sources
