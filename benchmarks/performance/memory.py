"""Memory of a process on Linux, and the peak memory of one step of a contender in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.performance.contenders import Case, Size


def peak_megabytes(contender: str, size: Size, trainable: bool, table: str = "contenders") -> float:
    """Returns the peak memory of one step above what its inputs take, measured in a new process.

    `table` is the module of this package whose `available` has the contender.
    """
    arguments = [table, contender, *map(str, size), str(int(trainable))]
    command = [sys.executable, "-m", "benchmarks.performance.memory", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{contender} at {size} failed:\n{result.stderr}")
    return float(result.stdout)


def _peak_megabytes_here(table: str, contender: str, size: Size, trainable: bool) -> float:
    step = import_module(f"benchmarks.performance.{table}").available()[contender]
    step(Case.make(Size(64, 64, 1000), trainable))  # Allocates what is needed once: threads, libraries, their buffers.
    case = Case.make(size, trainable)
    before = process_kilobytes("VmRSS")
    reset_peak()
    step(case)
    return (process_kilobytes("VmHWM") - before) / 1024


def reset_peak() -> None:
    """Resets this process's peak memory (VmHWM) to its current memory."""
    Path("/proc/self/clear_refs").write_text("5")


def process_kilobytes(key: str) -> int:
    """Returns a memory figure of this process, such as VmRSS (current) or VmHWM (peak), in KB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}; memory is measured on Linux only")


if __name__ == "__main__":
    table, name, n, d, v, trainable = sys.argv[1:]
    print(_peak_megabytes_here(table, name, Size(int(n), int(d), int(v)), bool(int(trainable))))
