"""A sweep of the launch settings, and the rule by which the best become the default.

The settings are swept one group after another, each group with the best of those before: block, warps and programs
together, because a program's registers decide how many fit; then draws, again with programs; then the budget of a
chunk, by whole steps. A setting replaces the default if its median is more than CLEARLY shorter.
"""

from __future__ import annotations

import importlib
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.gpu import timed
from benchmarks.gpu.record import Context, Figures
from benchmarks.performance.contenders import Case, Size
from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.memory_plan import chunk_size
from otr_plugin.loss.tuned import Settings

CLEARLY = 0.02
GRID: dict[str, tuple[int, ...]] = {
    "block": (1024, 2048, 4096, 8192),
    "warps": (4, 8, 16),
    "programs": (1, 2, 3, 4, 6, 8),
    "draws": (8, 16, 32, 64),
    "chunk_bytes": tuple(2**n for n in range(26, 32)),
}
SMALL_GRID: dict[str, tuple[int, ...]] = {
    "block": (256,),
    "warps": (8,),
    "programs": (1, 3),
    "draws": (16,),
    "chunk_bytes": (2**11, 2**30),
}
GROUPS = (("block", "warps", "programs"), ("draws", "programs"))
ROUNDS = 5


def launches(seconds: Callable[[OTRConfig], float], context: Context) -> Figures:
    """Times of the sampled kernel on one chunk, and the best settings."""
    grid = SMALL_GRID if context.small else GRID
    launch: Any = importlib.import_module("otr_plugin.loss.triton.launch")
    original = launch.settings_of
    tried: list[Figures] = []

    def attempt(settings: Settings) -> float:
        launch.settings_of = lambda architecture: settings
        entry: Figures = {"settings": settings._asdict()}
        try:
            entry["seconds"] = seconds(OTRConfig())
        except Exception as error:  # too many registers or threads, for instance
            entry["failed"] = f"{type(error).__name__}: {str(error)[:120]}"
        finally:
            launch.settings_of = original
        tried.append(entry)
        return float(entry.get("seconds", math.inf))

    best, shortest = Settings(), attempt(Settings())
    for group in GROUPS:
        found = best
        for values in itertools.product(*(grid[name] for name in group)):
            candidate = best._replace(**dict(zip(group, values, strict=True)))
            if any(entry["settings"] == candidate._asdict() for entry in tried):
                continue
            if (time := attempt(candidate)) < shortest * (1 - CLEARLY):
                found, shortest = candidate, time
        best = found
    return {"tried": tried, "best": {name: getattr(best, name) for group in GROUPS for name in group}}


def chunks(size: Size, context: Context) -> Figures:
    """Times of whole steps by the budget of a chunk."""
    case = Case.make(size, False, device=context.device, dtype=torch.bfloat16)
    tried: list[Figures] = []
    for budget in dict.fromkeys((Settings().chunk_bytes, *(SMALL_GRID if context.small else GRID)["chunk_bytes"])):
        config = OTRConfig(chunk_tokens=chunk_size(size.n, 2 * size.v, "auto", budget))

        def step(config: OTRConfig = config) -> None:
            case.clear_gradients()
            otr_loss(case.hidden, case.weight, case.labels, config).loss.backward()

        step()
        times = [timed.seconds_of(context.device, step) for _ in range(1 if context.small else ROUNDS)]
        tried.append({"settings": {"chunk_bytes": budget}, "seconds": statistics.median(times)})
    default, best = tried[0], min(tried, key=lambda entry: float(entry["seconds"]))
    chosen = best if best["seconds"] < default["seconds"] * (1 - CLEARLY) else default
    return {"tried": tried, "best": chosen["settings"]}


def best_settings(cells: dict[str, Figures]) -> dict[str, int] | None:
    """The entry of the table, from a piece's cells; None if a sweep is missing."""
    found = {key: value for one in cells.values() for key, value in one.get("best", {}).items()}
    return Settings(**found)._asdict() if found.keys() == Settings()._asdict().keys() else None


def lines(cells: dict[str, Figures]) -> list[str]:
    found: list[str] = []
    for name, one in cells.items():
        timings = [entry for entry in one["tried"] if "seconds" in entry]
        default = timings[0]["seconds"]
        shortest = min(timings, key=lambda entry: float(entry["seconds"]))
        failed = len(one["tried"]) - len(timings)
        found += [""]
        found.append(
            f"The {name}: {len(timings)} settings measured, {failed} failed. By the rule, the best is "
            f"`{_words(one['best'])}`; the shortest, `{_words(shortest['settings'])}`, takes "
            f"{shortest['seconds'] / default:.2f} × the time of the default."
        )
    return found


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in settings.items())


def draw(axis: Any, name: str, one: Figures) -> None:
    """The times of all settings in order, as multiples of the default's; or by the budget of a chunk."""
    timings = [entry for entry in one["tried"] if "seconds" in entry]
    default = timings[0]["seconds"]
    if "block" in timings[0]["settings"]:
        ordered = sorted(timings, key=lambda entry: float(entry["seconds"]))
        axis.plot([entry["seconds"] / default for entry in ordered], marker=".", linewidth=1)
        axis.plot(ordered.index(timings[0]), 1, "o", color="#d1642e", label="default")
        axis.set_xlabel("settings, the fastest first")
    else:
        ordered = sorted(timings, key=lambda entry: int(entry["settings"]["chunk_bytes"]))
        axis.plot(
            [entry["settings"]["chunk_bytes"] / 2**20 for entry in ordered],
            [entry["seconds"] / default for entry in ordered],
            marker=".",
        )
        axis.set_xscale("log", base=2)
        axis.plot(timings[0]["settings"]["chunk_bytes"] / 2**20, 1, "o", color="#d1642e", label="default")
        axis.set_xlabel("budget of a chunk, MiB")
    axis.legend(frameon=False, fontsize=8)
    axis.set_ylabel("time, as a multiple of the default's")
    axis.set_title(name.partition(",")[0], fontsize=9)
