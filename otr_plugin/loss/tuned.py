"""The numbers that decide how fast the loss is on a GPU, and nothing else: the defaults, and what sweeps have found.

`python -m benchmarks gpu` measures other numbers on a card. `python -m benchmarks tune` writes those that were best
into TABLE, by the architecture of the card. An architecture that is not in it gets the defaults; without a sweep, there
is no table.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import torch

TABLE = Path(__file__).with_name("tuned.json")
INTERPRETER = "interpreter"  # the architecture on a CPU


class Settings(NamedTuple):
    block: int = 2048  # logits per iteration of the kernels, a power of two
    warps: int = 8  # of a program
    programs: int = 3  # started for each processor; how many of them it runs at one time depends on their registers
    draws: int = 32  # per iteration, a power of two
    chunk_bytes: int = 2**30  # the largest budget for the logits of one chunk


def settings_of(architecture: str) -> Settings:
    """The settings for an architecture, such as sm_90 or gfx942."""
    return _table(TABLE).get(architecture, Settings())


@functools.cache
def _table(path: Path) -> dict[str, Settings]:
    if not path.exists():
        return {}
    return {name: Settings(**entry) for name, entry in json.loads(path.read_text()).items()}


@functools.cache
def architecture(device: torch.device) -> str:
    """The name by which compilers call the device's instructions."""
    if device.type == "cpu":
        return INTERPRETER
    if device.type != "cuda":
        return device.type
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return str(properties.gcnArchName).partition(":")[0]
    return f"sm_{properties.major}{properties.minor}"
