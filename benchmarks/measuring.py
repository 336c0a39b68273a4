"""How time and memory are measured, and on what."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.performance.contenders import Case, Contender, Size, available


def interleaved(
    case: Case, contenders: dict[str, Contender], rounds: int, done: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of every round, by contender. One round runs each of them once; the first is a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, contender in contenders.items():
            case.forget_gradients()
            start = time.perf_counter()
            contender(case)
            if turn > 0:
                seconds[name].append(time.perf_counter() - start)
            done()
    return seconds


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what slows the machine for a while slows both."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def peak_megabytes(contender: str, size: Size, trainable: bool) -> float:
    """Peak extra memory of one step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.measuring", contender, *map(str, size), str(int(trainable))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{contender} at {size} failed:\n{result.stderr}")
    return float(result.stdout)


def _peak_megabytes_here(contender: str, size: Size, trainable: bool) -> float:
    step = available()[contender]
    step(Case.make(Size(64, 64, 1000), trainable))  # threads, libraries and their own buffers
    case = Case.make(size, trainable)
    before = status("VmRSS")
    reset_peak()
    step(case)
    return (status("VmHWM") - before) / 1024


def reset_peak() -> None:
    """This process's high-water mark starts again from here."""
    Path("/proc/self/clear_refs").write_text("5")


def status(key: str) -> int:
    """A figure of this process's memory, in KB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}; memory is measured on Linux only")


def circumstances(packages: Sequence[str]) -> dict[str, Any]:
    """What a figure needs beside it: machine, versions, date, and the command that made it."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {_memory()} GB",
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": versions,
    }


def made(results: dict[str, Any]) -> str:
    """The line below a table that says where its figures come from."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    threads = results["threads"]
    on = f"{results['machine']}, {threads} thread{'s' if threads != 1 else ''}"
    return f"`{results['command']}`, {results['date']}; {on}; {versions}."


def _cpu() -> str:
    def lines() -> Iterator[str]:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                yield line.split(":", 1)[1].strip()

    return next(lines(), platform.processor() or platform.machine())


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)


def write(path: Path, results: dict[str, Any], page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(page)


if __name__ == "__main__":
    name, n, d, v, trainable = sys.argv[1:]
    print(_peak_megabytes_here(name, Size(int(n), int(d), int(v)), bool(int(trainable))))
