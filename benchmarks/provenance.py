"""Provenance of a result file: the command, date, machine and versions that produced it; and how it is written."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def collect(packages: Sequence[str]) -> dict[str, Any]:
    """Returns what must stand beside every figure: command, date, machine and the versions of these packages."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{_cpu_model()}, {os.cpu_count()} cores, {_memory_gigabytes()} GB",
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "versions": versions,
    }


def describe(results: dict[str, Any]) -> str:
    """Returns the line below a table that states how its figures were produced, from a file's `collect` entries."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    threads = results["threads"]
    machine = f"{results['machine']}, {threads} thread{'s' if threads != 1 else ''}"
    return f"`{results['command']}`, {results['date']}; {machine}; {versions}."


def write_results(path: Path, results: dict[str, Any], page: str) -> None:
    """Writes the results to path.json, and the page rendered from them to path.md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(page)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gigabytes() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9)
