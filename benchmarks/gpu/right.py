"""Is the loss right on this card? The parity suite and the tests of the kernel, by pytest, in groups.

Without a GPU, the tests of the kernel run in Triton's interpreter, and of those that need a GPU it is counted how many
each group selects.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from benchmarks.gpu.record import Context, Figures, Record
from benchmarks.paths import ROOT

TITLE = "Is it right? The parity suite"
MINUTES = 8.0
INTERPRETED = True
AT_ONCE = 4  # groups on a GPU
ON_GPU, ANYWHERE, BESIDE = (f"tests/loss/test_{name}.py" for name in ("gpu", "device", "triton"))
SHAPES = "test_every_shape_and_dtype"
HEADS = "test_scaled_and_softcapped"


class Group(NamedTuple):
    """Tests of a file whose names have all parts of `having`, and none of `without`."""

    file: str
    having: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def expression(self) -> str:
        """pytest's -k."""
        return " and ".join([*self.having, *(f"not {part}" for part in self.without)])

    def has(self, test: str) -> bool:
        return all(part in test for part in self.having) and not any(part in test for part in self.without)


GROUPS = {
    "counts, repeats, odd vocabularies, strides, rows": Group(ANYWHERE),
    "every shape, bfloat16": Group(ON_GPU, (SHAPES, "bfloat16")),
    "every shape, float16": Group(ON_GPU, (SHAPES, "torch.float16")),
    "every shape, float32": Group(ON_GPU, (SHAPES, "float32")),
    "every shape, float64 (PyTorch's kernel)": Group(ON_GPU, (SHAPES, "float64")),
    "scaled and softcapped logits": Group(ON_GPU, (HEADS,)),
    "the rest of the parity suite, waits, streams, 2³¹ logits": Group(ON_GPU, (), (SHAPES, HEADS)),
    "Triton's kernel beside PyTorch's": Group(BESIDE, (), ("compile", "spills")),
}
SMALL = {ANYWHERE: "(counts and 200) or (number_of_rows and bfloat16)", BESIDE: "same_bits or out_of_range"}


def cells(small: bool) -> list[str]:
    return list(GROUPS)


def measure(cell: str, context: Context) -> Figures:
    return _started(context)[cell].result()


@functools.cache
def _started(context: Context) -> dict[str, Future[Figures]]:
    """The groups that are missing, some at a time: they mostly wait for a core that compiles their kernels."""
    missing = Record.of(context.out / "right.json", context.small).missing(cells(context.small))
    pool = ThreadPoolExecutor(AT_ONCE if context.device == "cuda" else 1)
    return {cell: pool.submit(_measure, cell, context) for cell in missing}


def _measure(cell: str, context: Context) -> Figures:
    group = GROUPS[cell]
    if time.monotonic() > context.deadline:
        return {"unfinished": "not started"}
    if context.device == "cpu" and group.file == ON_GPU:
        found = [test for test in _tests(ON_GPU) if group.has(test)]
        if not found:
            raise RuntimeError(f"no test of {ON_GPU} has the names {group.expression}")
        return {"selected": len(found)}
    chosen = SMALL.get(group.file, group.expression) if context.small else group.expression
    return _run(group.file, chosen, max(60.0, context.deadline - time.monotonic()))


def _run(file: str, chosen: str, seconds: float) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", file, "-q", "-k", chosen, "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}"]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"unfinished": f"not through in {seconds:.0f} seconds"}
        if not report.exists() or done.returncode not in (0, 1):
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
        suite = ElementTree.parse(report).getroot()[0]
    names = [
        f"{case.get('name')}: {(outcome.get('message') or '').splitlines()[0][:200]}"
        for case in suite.iter("testcase")
        for outcome in case
        if outcome.tag in ("failure", "error")
    ]
    tests, skipped = (int(suite.get(name) or 0) for name in ("tests", "skipped"))
    return {"tests": tests, "passed": tests - skipped - len(names), "skipped": skipped, "failed": names}


@functools.cache
def _tests(file: str) -> list[str]:
    """The names of the file's tests."""
    command = [sys.executable, "-m", "pytest", file, "-q", "-p", "no:cacheprovider", "--collect-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]


def lines(cells: dict[str, Figures]) -> list[str]:
    found = ["| tests | passed | skipped | failed |", "|---|---:|---:|---:|"]
    failures = []
    for name, one in cells.items():
        if "selected" in one:
            found.append(f"| {name} | {one['selected']} wait for a GPU | | |")
        elif "tests" in one:
            found.append(f"| {name} | {one['passed']} of {one['tests']} | {one['skipped']} | {len(one['failed'])} |")
            failures += [f"- {name}: `{text}`" for text in one["failed"][:20]]
    return found + (["", *failures] if failures else [])


def plot(cells: dict[str, Figures], path: Path) -> bool:
    return False
