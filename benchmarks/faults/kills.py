"""Kills runs by SIGKILL at random moments, resumes them as the host does, and compares them with unbroken runs.

Each kill is one of three, drawn at random: anywhere before the process's first checkpoint, while it reads the recipe,
loads the model and takes its first steps; while a checkpoint is written, or just after; anywhere later.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from typing import Any

from benchmarks.faults.runs import (
    SAVE_STEPS,
    STEPS,
    Runs,
    first_difference,
    outcome,
    remove_broken_checkpoints,
    step_of,
)
from otr_plugin.hosts.resume import last_checkpoint

MOMENTS = ("before the first checkpoint", "while a checkpoint is written", "after a checkpoint")
KINDS = {True: "OTR", False: "plain"}
HUNG_AFTER_SECONDS = 300


class Timing:
    """How long an unbroken run takes: until its first checkpoint, for one save with the steps before it, in all."""

    def __init__(self, first: float, whole: float) -> None:
        self.first, self.whole = first, whole
        self.each = (whole - first) / (STEPS / SAVE_STEPS)


def unbroken(runs: Runs, name: str, keys: dict[str, Any], *, otr: bool, seed: int = 1) -> tuple[dict[str, Any], Timing]:
    """Runs without a fault; returns the outcome and the timing. An error of the host is raised."""
    runs.clear(name)
    started = time.monotonic()
    runs.start(name, keys, otr=otr, seed=seed)
    output, first = runs.output(name), 0.0
    while not last_checkpoint(output) and time.monotonic() - started < HUNG_AFTER_SECONDS:
        time.sleep(0.005)
        if output.with_suffix(".result.json").exists():
            break
    first = time.monotonic() - started
    run = runs.finish(name)
    if run.error:
        raise RuntimeError(run.error)
    return outcome(output), Timing(first, time.monotonic() - started)


def killed(
    runs: Runs,
    name: str,
    keys: dict[str, Any],
    *,
    otr: bool,
    kills: int,
    timing: Timing,
    draw: random.Random,
    fault: str = "",
) -> dict[str, Any]:
    """One run that is killed at most `kills` times, and resumed until it is done. A fault can be added to processes.

    Returns its outcome, or the error of an attempt that ended without a kill ("error"), and the kills: of each the
    moment, the seconds since the process began, the last whole checkpoint's step, and whether a broken one was left.
    """
    runs.clear(name)
    output = runs.output(name)
    done: list[dict[str, Any]] = []
    while True:
        before = step_of(remove_broken_checkpoints(output)[0])
        # A process that resumes starts from another random state than the one that was killed, as in reality.
        pid = runs.start(name, keys, otr=otr, seed=1 if not before else draw.randrange(2, 2**31), fault=fault)
        started = time.monotonic()
        moment = draw.choice(MOMENTS)
        if len(done) < kills:
            _wait_for(moment, runs, name, before, timing, draw)
            _kill(pid)
        seconds = time.monotonic() - started
        run = runs.finish(name)
        if "signal 9" not in run.error:
            if run.error:
                return {"kills": done, "error": run.error}
            return {"kills": done, **outcome(output)}
        whole, broken = remove_broken_checkpoints(output)
        done.append({"moment": moment, "seconds": round(seconds, 3), "step": step_of(whole), "broken": broken})
        if step_of(whole) == STEPS:  # done: resumed once more, ms-swift trains a step more than max_steps
            return {"kills": done, **outcome(output)}


def _wait_for(moment: str, runs: Runs, name: str, before: int, timing: Timing, draw: random.Random) -> None:
    """Returns at a random time within the moment, or when the run ends."""
    output, deadline = runs.output(name), time.monotonic() + HUNG_AFTER_SECONDS
    if moment == MOMENTS[0]:
        _sleep(draw.uniform(0, timing.first), runs, name)
        return
    saves = draw.randint(1, 5)  # how many checkpoints this process begins to write
    target = before + saves * SAVE_STEPS
    while step_of(last_checkpoint(output)) < target and not _has_ended(runs, name):
        assert time.monotonic() < deadline, f"{name}: no checkpoint of step {target}"
        time.sleep(0.0005)
    if moment == MOMENTS[1]:
        time.sleep(draw.uniform(0, timing.each / 2))
    else:
        _sleep(draw.uniform(0, 3 * timing.each), runs, name)


def _sleep(seconds: float, runs: Runs, name: str) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not _has_ended(runs, name):
        time.sleep(min(0.01, max(0.0, until - time.monotonic())))


def _has_ended(runs: Runs, name: str) -> bool:
    return runs.output(name).with_suffix(".result.json").exists()


def _kill(pid: int) -> None:
    """The process and all that it started. It leads a group of its own soon after it was forked."""
    for kill in (os.killpg, os.kill):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
            return


def cell(runs: Runs, feature: str, *, seed: int, kills: int, plain_kills: int) -> dict[str, Any]:
    """The result of one feature: killed runs, those with OTR and plain ones in turn, beside unbroken ones."""
    keys, slug = runs.keys(feature), re.sub(r"\W+", "-", feature)
    counts, wanted, timings = {True: kills, False: plain_kills}, {}, {}
    try:
        for otr in counts:
            wanted[otr], timings[otr] = unbroken(runs, f"{slug} unbroken {KINDS[otr]}", keys, otr=otr)
        again, _ = unbroken(runs, f"{slug} again", keys, otr=False, seed=2)
    except RuntimeError as error:
        return {"error": str(error)}
    found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    while any(_count(found[otr]) < counts[otr] and not _failed(found[otr]) for otr in counts):
        for otr, runs_so_far in found.items():
            missing = counts[otr] - _count(runs_so_far)
            if missing > 0 and not _failed(runs_so_far):
                draw = random.Random(f"{seed}/{runs.name}/{feature}/{otr}/{len(runs_so_far)}")
                name = f"{slug} killed {KINDS[otr]}"
                run = killed(runs, name, keys, otr=otr, kills=missing, timing=timings[otr], draw=draw)
                runs_so_far.append(run)
    summaries = {KINDS[otr]: _summary(found[otr], wanted[otr]) for otr in counts}
    return summaries | {"plain, unbroken, again": _same(again, wanted[False])}


def _failed(found: list[dict[str, Any]]) -> bool:
    return any("error" in run for run in found)


def _same(run: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Whether a run ended as the unbroken one: in its weights, bit for bit, and in its log."""
    return {
        "same weights": run["weights"] == wanted["weights"],
        "first other step": first_difference(run["log"], wanted["log"]),
    }


def _count(found: list[dict[str, Any]]) -> int:
    return sum(len(run["kills"]) for run in found)


def _summary(found: list[dict[str, Any]], wanted: dict[str, Any]) -> dict[str, Any]:
    """Counts over the killed runs of one kind."""
    kills = [kill for run in found for kill in run["kills"]]
    ended = [_same(run, wanted) for run in found if "error" not in run]
    result = {
        "kills": len(kills),
        "moments": {moment: sum(kill["moment"] == moment for kill in kills) for moment in MOMENTS},
        "checkpoints left broken": sum(kill["broken"] for kill in kills),
        "runs": len(found),
        "runs as the unbroken one": sum(run["same weights"] and run["first other step"] is None for run in ended),
    }
    if steps := [run["first other step"] for run in ended if run["first other step"] is not None]:
        result["first other step"] = min(steps)
    if errors := [run["error"] for run in found if "error" in run]:
        result["errors"] = errors
    return result
