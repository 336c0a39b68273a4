"""A study of the losses: small models learn new tasks with SFT, DFT and OTR and are tested on new and old skills.

    python -m benchmarks learning                  # size cpu
    python -m benchmarks learning --size smoke     # the same code in minutes, to check that it works
    python -m benchmarks learning --minutes 8      # start no run after 8 minutes; the next call continues
    python -m benchmarks learning --report         # only write the page again from the results file
    python -m benchmarks learning --edition 2      # the second edition: wrong answers of two kinds, three base models

Every finished run is a line of benchmarks/results/learning.jsonl, or of learning-2.jsonl, and is not repeated.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import paths, provenance
from benchmarks.learning import base_model, plan, pool, report, store
from benchmarks.learning.plan import SIZES, Run, Size
from benchmarks.learning.second import command as second
from benchmarks.learning.second import results as second_results
from benchmarks.learning.train import execute

RESULTS = paths.RESULTS / "learning.jsonl"
RECORDED_PACKAGES = ("otr-plugin", "torch", "transformers", "scipy")
REQUIRED_PACKAGES = ("transformers", "scipy", "matplotlib")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--edition", type=int, choices=(1, 2), default=1, help="of the study (default 1)")
    parser.add_argument("--size", choices=SIZES, default="cpu", help="of the models and of the first edition")
    parser.add_argument(
        "--minutes", type=float, help="start no new run after this time; default: 7 for size gpu, else no limit"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time, each with one thread"
    )
    parser.add_argument("--work", type=Path, default=Path("learning"), help="folder for the base models")
    parser.add_argument("--results", type=Path, help="results file; the page is written into the same folder")
    parser.add_argument("--report", action="store_true", help="only write the page from the results file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        sys.exit(f"learning: --jobs should be 1 or more, got {args.jobs}")
    _require_packages()
    if args.edition == 2:
        second.run(args.results or second_results.FILE, args.work, args.jobs, args.minutes, only_report=args.report)
        return
    size = SIZES[args.size]
    deadline = time.monotonic() + 60 * (size.minutes if args.minutes is None else args.minutes)
    # The smoke size checks the code. Its figures mean nothing, so they stay out of benchmarks/results.
    path = args.results or (args.work / "smoke" / "learning.jsonl" if size.name == "smoke" else RESULTS)
    if args.report:
        print(report.write(path))
        return
    pool.disable_transformers_progress_bars()
    session = len([line for line in store.read(path) if line["kind"] == "session"])
    made = provenance.collect(RECORDED_PACKAGES) | {"jobs": args.jobs, "device": _device_name()}
    store.append(path, {"kind": "session", "size": size.name, "session": session, **made})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), speed_estimate_period=600) as bars:
        folder = args.work / size.name
        if ensure_base_model(size, folder, path, session, bars, deadline):
            execute_remaining_runs(size, folder, path, session, args.jobs, bars, deadline)
    left = remaining_run_count(size, path)
    print(f"{left} runs of size {size.name} are left; the same command continues." if left else "All runs are done.")
    print(report.write(path))


def _require_packages() -> None:
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"learning: it needs {', '.join(REQUIRED_PACKAGES)}; not installed here: {', '.join(missing)}. Install the "
            "missing packages, or run `make .nox/ready-axolotl` and then .nox/axolotl/bin/python -m benchmarks "
            "learning."
        )


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def ensure_base_model(size: Size, folder: Path, path: Path, session: int, bars: Progress, deadline: float) -> bool:
    """Pretrains and records the base model unless `folder` has the recorded one. False if the deadline came first."""
    recorded = store.last_base_line(store.read(path), size)
    settings = base_model.settings(size)
    weights = folder / "model.safetensors"
    if recorded and recorded["config"] == settings and weights.exists() and checksum(weights) == recorded["print"]:
        return True
    task = bars.add_task("pretraining", total=100)
    figures = base_model.pretrain(size, folder, lambda share: bars.update(task, completed=int(100 * share)), deadline)
    if figures is None:
        return False
    line = {"kind": "base", "size": size.name, "session": session, "print": checksum(weights), "config": settings}
    store.append(path, line | {"figures": store.rounded(figures)})
    return True


def checksum(weights: Path) -> str:
    return f"{zlib.crc32(weights.read_bytes()):08x}"


def remaining_run_count(size: Size, path: Path) -> int:
    """The number of unfinished runs, including those that an unfinished search has yet to determine."""
    results = store.results(store.read(path), size)
    planned = list(plan.planned_runs(size, results))
    finished = sum(results.get(run) is not None for run in planned)
    return max(len(planned), plan.expected_run_count(size)) - finished


def execute_remaining_runs(
    size: Size, folder: Path, path: Path, session: int, jobs: int, bars: Progress, deadline: float
) -> None:
    results = store.results(store.read(path), size)
    base = store.last_base_line(store.read(path), size)
    assert base is not None
    task = bars.add_task("runs", total=None)

    def not_begun(under_way: Collection[Run]) -> list[Run]:
        planned = list(plan.planned_runs(size, results))
        total = max(len(planned), plan.expected_run_count(size))
        bars.update(task, completed=sum(results.get(run) is not None for run in planned), total=total)
        return [run for run in planned if results.get(run) is None and run not in under_way]

    def finished(run: Run, figures: dict[str, Any]) -> None:
        line = store.run_line(run, base["print"], session, figures)
        store.append(path, line)
        results.figures[run.key] = line["figures"]
        bars.update(task, description=f"{run.kind} {run.regime} {run.method}"[:34].ljust(34))

    pool.run_all(jobs, deadline, not_begun, lambda run: (execute, run, folder), finished, bars.console)
