"""The study at size gpu, as far as the time goes: seeds side by side, and its verdicts beside the small models'.

The study keeps every run in learning.jsonl beside this piece's file, and writes its own page there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.record import Context, Figures
from benchmarks.learning import claims, plan, store
from benchmarks.learning.command import REQUIRED_PACKAGES
from benchmarks.learning.study import Study
from benchmarks.paths import RESULTS, ROOT

TITLE = "The study with larger models"
MINUTES = 7.0
INTERPRETED = False
JOBS = 8  # runs at one time on a GPU: a run of these models does not fill it
LEFT = re.compile(r"^(\d+) runs of size \w+ are left", re.MULTILINE)


def cells(small: bool) -> list[str]:
    return ["smoke" if small else "gpu"]


def measure(cell: str, context: Context) -> Figures:
    if missing := [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]:
        return {"failed": f"not installed: {', '.join(missing)}"}
    results = context.out / "learning.jsonl"
    jobs = min(JOBS, os.cpu_count() or 1) if context.device == "cuda" else 1
    minutes = max(0.0, (context.deadline - time.monotonic()) / 60 - 0.5)  # runs under way are finished
    command = [sys.executable, "-m", "benchmarks", "learning", "--size", cell, "--jobs", str(jobs)]
    work = ROOT / ".cache" / "gpu-study" / context.out.name  # base models, which are large
    command += ["--minutes", f"{minutes:.2f}", "--work", str(work), "--results", str(results)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    found = LEFT.search(done.stdout)
    figures = of_lines(results, cell)
    if found:
        return figures | {"unfinished": f"{found[1]} runs are left"}
    shutil.rmtree(work, ignore_errors=True)  # all runs are kept
    return figures


def of_lines(results: Path, size: str) -> Figures:
    """What the finished runs say."""
    study = Study.of(store.read(results), plan.SIZES[size])
    if study is None:
        return {"runs": 0, "claims": []}
    return {
        "runs": len(study.results.figures),
        "expected": plan.expected_run_count(study.size),
        "parameters": study.base["figures"]["parameters"],
        "claims": claims.all_of(study),
    }


def lines(cells: dict[str, Figures]) -> list[str]:
    found: list[str] = []
    for size, one in cells.items():
        if "failed" in one:
            found += [f"Size {size}: {one['failed']}."]
            continue
        if not one.get("runs"):
            found += [f"Size {size}: the base model is not trained yet, so there is no run."]
            continue
        found += [f"Size {size}, {one['parameters']:,} parameters: {one['runs']} of {one['expected']} runs.", ""]
        found += [f"- {text}" for text in one["claims"]] or ["No claim has all the runs that it needs."]
    kept = RESULTS / "learning.jsonl"
    if found and kept.exists():
        beside = of_lines(kept, "cpu")
        found += ["", f"Beside it, the small models (size cpu, {beside['parameters']:,} parameters):", ""]
        found += [f"- {text}" for text in beside["claims"]]
    return found


def plot(cells: dict[str, Figures], path: Path) -> bool:
    return False  # the study's own page has plots
