"""Fills the disk while a run writes a checkpoint, makes space, and resumes the run.

A run writes to a file system in memory that is too small by a random part of a checkpoint. What ends the run is the
kernel's own error, ENOSPC. Mounting needs the rights of root.
"""

from __future__ import annotations

import math
import random
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.faults.kills import unbroken
from benchmarks.faults.runs import KEPT, Runs, first_difference, outcome, remove_broken_checkpoints, step_of
from benchmarks.hosts.features.feature import FULL
from otr_plugin.hosts.resume import last_checkpoint

PAGE = 4096
TRIALS = 3
LARGE = "2g"
CASE = "while a checkpoint is written"


def why_not() -> str | None:
    """Why file systems cannot be mounted here, or None."""
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder), PAGE):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return str(getattr(error, "stderr", "") or error).strip()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of this many bytes at the folder, for the time of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True, text=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def make_space(folder: Path) -> None:
    subprocess.run(["mount", "-o", f"remount,size={LARGE}", folder], check=True)


def size_of(checkpoint: Path) -> int:
    return sum(math.ceil(file.stat().st_size / PAGE) * PAGE for file in checkpoint.rglob("*") if file.is_file())


def cell(runs: Runs, *, seed: int, trials: int = TRIALS) -> dict[str, Any]:
    """Trials with OTR, each beside a plain run with as much space."""
    if reason := why_not():
        return {"skipped": reason}
    keys, wanted = runs.keys(FULL), {}
    for otr in (False, True):
        wanted[otr], _ = unbroken(runs, f"disk unbroken {otr}", keys, otr=otr)
    checkpoint = last_checkpoint(runs.output("disk unbroken True"))
    assert checkpoint is not None
    draw, found = random.Random(f"{seed}/{runs.name}"), []
    for trial in range(trials):
        checkpoints = draw.uniform(1 + trial % KEPT, 2 + trial % KEPT)  # how many of them the disk holds
        plain, ours = (
            _trial(runs, f"disk {trial} {otr}", keys, otr, wanted[otr], round(checkpoints * size_of(checkpoint)))
            for otr in (False, True)
        )
        found.append({"checkpoints": round(checkpoints, 2), "plain": plain, "OTR": ours})
    return {"trials": found}


def _trial(runs: Runs, name: str, keys: dict[str, Any], otr: bool, wanted: dict[str, Any], size: int) -> dict[str, Any]:
    output = runs.output(name)
    with small_disk(output, size):
        first = runs.train(name, keys, otr=otr)
        whole, broken = remove_broken_checkpoints(output)
        make_space(output)
        again = runs.train(name, keys, otr=otr, seed=2 if whole else 1)
        result: dict[str, Any] = {"error": first.error[:300].replace(str(output), "OUTPUT")}
        result |= {"resumed from": step_of(whole), "broken": broken}
        if again.error:
            return result | {"error after resuming": again.error[:300]}
        ended = outcome(output)
        step = first_difference(ended["log"], wanted["log"])
        return result | {"as the unbroken run": ended["weights"] == wanted["weights"] and step is None}
