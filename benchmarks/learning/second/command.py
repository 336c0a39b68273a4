"""Makes the runs of the second edition that are missing, and writes its page."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import provenance
from benchmarks.learning import base_model, pool, store
from benchmarks.learning.second import design, report, results
from benchmarks.learning.second.design import BASES, Trial
from benchmarks.learning.second.tasks import REGIMES, TASKS
from benchmarks.learning.second.trial import execute

KEPT_BASES = Path(__file__).parent / "bases"  # in bfloat16, so that everybody's runs start from the same weights
RECORDED_PACKAGES = ("otr-plugin", "torch", "transformers", "scipy")


def run(path: Path, work: Path, jobs: int, minutes: float | None, *, only_report: bool = False) -> None:
    """Makes the missing runs, for so many minutes, and writes the page; the next call continues."""
    if not only_report:
        deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
        _continue(path, work, jobs, deadline)
    print(report.write(path))


def _continue(path: Path, work: Path, jobs: int, deadline: float) -> None:
    pool.disable_transformers_progress_bars()
    call = sum(line["kind"] == "session" for line in store.read(path))
    made = provenance.collect(RECORDED_PACKAGES) | {"jobs": jobs} | results.fingerprints()
    store.append(path, {"kind": "session", "session": call, **made})
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), speed_estimate_period=600) as bars:
        for name in BASES:
            if not _ensure_base(name, path, work, call, bars, deadline):
                sys.exit(f"learning: base model {name} is not finished; the same command continues")
        weights = {name: results.checksum_of_weights(KEPT_BASES / name) for name in BASES}
        _make_runs(path, call, weights, jobs, bars, deadline)


def _ensure_base(name: str, path: Path, work: Path, call: int, bars: Progress, deadline: float) -> bool:
    """Pretrains a base model unless it is kept. False if the deadline came first."""
    folder = KEPT_BASES / name
    if not folder.exists():
        task = bars.add_task(f"pretraining {name}", total=100)
        size, unrounded = BASES[name], work / "second" / name
        figures = base_model.pretrain(
            size, unrounded, lambda share: bars.update(task, completed=int(100 * share)), deadline
        )
        if figures is None:
            return False
        rounded = base_model.load(unrounded).bfloat16()
        part = folder.with_suffix(".part")
        rounded.save_pretrained(part)
        (part / "generation_config.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
        figures["skills"] = base_model.accuracy_by_skill(base_model.load(folder), "test", base_model.TEST_QUESTIONS)
        line = {"kind": "base", "base": name, "session": call, "weights": results.checksum_of_weights(folder)}
        store.append(path, line | {"config": base_model.settings(size), "figures": store.rounded(figures)})
    return True


def _make_runs(path: Path, call: int, weights: dict[str, str], jobs: int, bars: Progress, deadline: float) -> None:
    planned = {trial.key: trial for trial in design.trials()}
    figures = results.figures_by_key(store.read(path), results.fingerprints()["study"], weights)
    task = bars.add_task("runs", total=len(planned))

    def not_begun(under_way: Collection[Trial]) -> list[Trial]:
        bars.update(task, completed=len(figures))
        rates = {task: design.rate_of(task, figures) for task in TASKS}
        missing = (trial for key, trial in planned.items() if key not in figures and trial not in under_way)
        can_begin = (t for t in missing if t.kind == "search" or rates[REGIMES[t.regime].task] is not None)
        return list(islice(can_begin, jobs))

    def work_of(trial: Trial) -> tuple[Any, ...]:
        rate = trial.factor
        if trial.kind == "final":
            searched = design.rate_of(REGIMES[trial.regime].task, figures)
            assert searched is not None
            rate *= searched
        return execute, trial, rate, KEPT_BASES

    def finished(trial: Trial, found: dict[str, Any]) -> None:
        line = results.line_of(trial, call, weights[trial.base], found)
        store.append(path, line)
        figures[trial.key] = line["figures"]
        bars.update(task, description=f"{trial.kind} {trial.regime} {trial.method}"[:34].ljust(34))

    pool.run_all(jobs, deadline, not_begun, work_of, finished, bars.console)
