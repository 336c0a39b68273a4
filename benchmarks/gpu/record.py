"""The result file of a piece: which card, which versions, and the cells that are measured."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks import provenance
from benchmarks.paths import ROOT
from otr_plugin.loss.tuned import architecture

Figures = dict[str, Any]
NO_GPU = "no GPU: a CPU and Triton's interpreter"
PACKAGES = (
    "torch", "triton", "transformers", "peft", "bitsandbytes", "liger-kernel", "cut-cross-entropy", "trl"
)  # fmt: skip


@dataclass(frozen=True)
class Context:
    """Where a piece measures, and for how long."""

    device: str  # cuda or cpu
    small: bool  # toy sizes
    deadline: float  # of time.monotonic
    out: Path


class Piece(Protocol):
    """A module of this package that measures one thing, cell by cell. Each cell is kept when it is measured."""

    TITLE: str
    MINUTES: float  # its budget
    INTERPRETED: bool  # whether Triton's kernels run in its interpreter where there is no GPU

    def cells(self, small: bool) -> list[str]: ...

    def measure(self, cell: str, context: Context) -> Figures:
        """The figures of a cell. With "unfinished" among them, the next call measures it again."""

    def lines(self, cells: dict[str, Figures]) -> list[str]:
        """The piece's part of the page."""

    def plot(self, cells: dict[str, Figures], path: Path) -> bool:
        """Writes a picture, if there is something to draw."""


@dataclass
class Record:
    """Cells that were measured on the same card, with the same versions and the same loss."""

    path: Path
    identity: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    cells: dict[str, Figures] = field(default_factory=dict)

    @staticmethod
    def of(path: Path, small: bool) -> Record:
        """What the file has; nothing, if it was made on another card, with other versions or another loss."""
        record = Record(path, identity(small))
        if path.exists():
            kept = json.loads(path.read_text())
            if kept["identity"] == record.identity:
                record.provenance, record.cells = kept["provenance"], kept["cells"]
        return record

    def keep(self, cell: str, figures: Figures) -> None:
        """Adds a cell. The file is replaced as a whole, so that a killed process leaves it complete."""
        self.cells[cell] = figures
        self.provenance = provenance.collect(PACKAGES) | {"command": command(bool(self.identity["small"]))}
        self.provenance["date"] = datetime.date.today().isoformat()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"identity": self.identity, "provenance": self.provenance, "cells": self.cells}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1) + "\n")
        new.replace(self.path)

    def figures(self) -> dict[str, Figures]:
        """The cells without the seconds that they took."""
        return {
            cell: {name: value for name, value in one.items() if name != "took"} for cell, one in self.cells.items()
        }

    def missing(self, cells: list[str]) -> list[str]:
        return [name for name in cells if not is_done(self.cells.get(name))]


def is_done(figures: Figures | None) -> bool:
    return figures is not None and not {"unfinished", "error"} & figures.keys()


def command(small: bool) -> str:
    return "make gpu" + (" SMALL=1" if small else "")


@functools.cache
def identity(small: bool) -> dict[str, Any]:
    versions = provenance.collect(PACKAGES)["versions"]
    return {"small": small, **card(), "versions": versions, "source": _source()}


@functools.cache
def card() -> dict[str, Any]:
    """The card's name, memory, instruction set and driver."""
    if not torch.cuda.is_available():
        return {"card": NO_GPU, "architecture": architecture(torch.device("cpu"))}
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "gib": round(properties.total_memory / 2**30, 1),
        "processors": properties.multi_processor_count,
        "architecture": architecture(torch.device("cuda", 0)),
        "driver": _driver(),
        "runtime": f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}",
    }


def _driver() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown: nvidia-smi does not run"
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else "unknown"


def _source() -> str:
    """A checksum of the loss: figures of another one are not kept."""
    files = sorted((ROOT / "otr_plugin" / "loss").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def folder_name() -> str:
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", str(card()["card"]).lower()).strip("-")


def of_card(kept: dict[str, Any]) -> str:
    """The line below a title, from a file's content: the card, then the provenance."""
    found, parts = kept["identity"], []
    if "gib" in found:
        parts = [f"{found['gib']} GiB", f"{found['processors']} processors", found["architecture"]]
        parts += [f"driver {found['driver']}", found["runtime"]]
    return f"{', '.join([found['card'], *parts])}. {provenance.describe(kept['provenance'])}"
