"""Does it work? Small models of the study's own learn new things by SFT, DFT and OTR, and are asked what they know.

    python -m benchmarks learning                  # size cpu
    python -m benchmarks learning --size smoke     # the same path in minutes, to see that it works
    python -m benchmarks learning --minutes 8      # a piece; the next call goes on from there
    python -m benchmarks learning --report         # write the page again from the results file

Every run is a line of benchmarks/results/learning.jsonl as soon as it is done, and is not made again.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
import time
import zlib
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import paths, provenance
from benchmarks.learning import base, plan, report, store
from benchmarks.learning.plan import SIZES, Run, Size
from benchmarks.learning.train import measured

RESULTS = paths.RESULTS / "learning.jsonl"
PACKAGES = ("otr-plugin", "torch", "transformers", "scipy")
NEEDED = ("transformers", "scipy", "matplotlib")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--size", choices=SIZES, default="cpu")
    parser.add_argument(
        "--minutes", type=float, help="start nothing new after that long; size gpu: 7, others: no limit"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, each on one thread")
    parser.add_argument("--work", type=Path, default=Path("learning"), help="where base models are kept")
    parser.add_argument("--results", type=Path, help="the results file; the page is written beside it")
    parser.add_argument("--report", action="store_true", help="only write the page, from the results file alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    size = SIZES[args.size]
    until = time.monotonic() + 60 * (size.minutes if args.minutes is None else args.minutes)
    # What the smoke size finds is not worth keeping beside figures.
    path = args.results or (args.work / "smoke" / "learning.jsonl" if size.name == "smoke" else RESULTS)
    if args.jobs < 1:
        sys.exit(f"learning: --jobs should be 1 or more, got {args.jobs}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"learning: it needs {', '.join(NEEDED)}; not installed here: {', '.join(missing)}. Install what is "
            "missing, or `make .nox/ready-axolotl` and run .nox/axolotl/bin/python -m benchmarks learning."
        )
    if args.report:
        print(report.write(path))
        return
    _quiet()
    session = len([line for line in store.read(path) if line["kind"] == "session"])
    made = provenance.collect(PACKAGES) | {"jobs": args.jobs, "device": _device()}
    store.append(path, {"kind": "session", "size": size.name, "session": session, **made})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), speed_estimate_period=600) as bars:
        folder = args.work / size.name
        if have_base(size, folder, path, session, bars, until):
            run_all(size, folder, path, session, args.jobs, bars, until)
    left = remaining(size, path)
    print(f"{left} runs of size {size.name} are left; the same command goes on." if left else "All runs are done.")
    print(report.write(path))


def _quiet() -> None:
    """No bars of transformers' own between ours."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def have_base(size: Size, folder: Path, path: Path, session: int, bars: Progress, until: float) -> bool:
    """The base model, and its line: pretrained now, where there is none that was made so."""
    known = store.base_line(store.read(path), size)
    wanted = base.settings(size)
    kept = folder / "model.safetensors"
    if known and known["config"] == wanted and kept.exists() and fingerprint(kept) == known["print"]:
        return True
    task = bars.add_task("pretraining", total=100)
    figures = base.pretrain(size, folder, lambda share: bars.update(task, completed=int(100 * share)), until)
    if figures is None:
        return False
    line = {"kind": "base", "size": size.name, "session": session, "print": fingerprint(kept), "config": wanted}
    store.append(path, line | {"figures": store.rounded(figures)})
    return True


def fingerprint(model: Path) -> str:
    return f"{zlib.crc32(model.read_bytes()):08x}"


def remaining(size: Size, path: Path) -> int:
    """Runs that are still to come, those included that cannot be named yet."""
    known = store.results(store.read(path), size)
    named = list(plan.planned(size, known))
    return max(len(named), plan.expected(size)) - sum(known.of(run) is not None for run in named)


def run_all(size: Size, folder: Path, path: Path, session: int, jobs: int, bars: Progress, until: float) -> None:
    known = store.results(store.read(path), size)
    fixed = store.base_line(store.read(path), size)
    assert fixed is not None
    task = bars.add_task("runs", total=None)
    context = multiprocessing.get_context("spawn")  # the only one that CUDA allows
    under_way: dict[Future[dict[str, Any]], Run] = {}
    stopped = False
    with ProcessPoolExecutor(jobs, context, initializer=_begin_worker, initargs=(os.getpid(),)) as pool:
        while True:
            named = list(plan.planned(size, known))
            new = [run for run in named if known.of(run) is None and run not in under_way.values()]
            total = max(len(named), plan.expected(size))
            bars.update(task, completed=sum(known.of(run) is not None for run in named), total=total)
            stopped = stopped or time.monotonic() > until
            if not stopped:
                for run in new[: jobs - len(under_way)]:
                    under_way[pool.submit(measured, run, folder)] = run
            if not under_way:
                return
            try:
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                if stopped:
                    raise
                stopped = True
                bars.console.print("Stopping when the runs that are under way are done; once more to stop now.")
                continue
            for future in done:
                run = under_way.pop(future)
                line = store.line_of(run, fixed["print"], session, future.result())
                store.append(path, line)
                known.figures[run.key] = line["figures"]
                bars.update(task, description=f"{run.kind} {run.regime} {run.method}"[:34].ljust(34))


def _begin_worker(parent: int) -> None:
    """One thread, so that runs do not wait for each other; and no life after the parent's."""
    _quiet()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
