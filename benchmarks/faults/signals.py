"""Sends SIGINT (Ctrl-C) or SIGTERM (a scheduler's) to a run in the middle of its steps, and resumes the run."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from typing import Any

from benchmarks.faults.kills import HUNG_AFTER_SECONDS, unbroken
from benchmarks.faults.runs import STEPS, Runs, first_difference, outcome, remove_broken_checkpoints, step_of
from benchmarks.hosts.features.feature import FULL
from otr_plugin.hosts.resume import last_checkpoint

CASES = ("SIGINT", "SIGTERM")


def as_in_a_terminal() -> None:
    """A shell starts processes in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def cell(runs: Runs, case: str, *, seed: int) -> dict[str, Any]:
    """How the run ends by the signal, and whether it then ends as the unbroken one; plain and with OTR."""
    result, draw = {}, random.Random(f"{seed}/{runs.name}/{case}")
    for otr, kind in ((False, "plain"), (True, "OTR")):
        wanted, timing = unbroken(runs, f"{case} unbroken {kind}", runs.keys(FULL), otr=otr)
        name = f"{case} {kind}"
        runs.clear(name)
        pid = runs.start(name, runs.keys(FULL), otr=otr, fault=f"{__name__}:{as_in_a_terminal.__name__}")
        target, deadline = draw.randrange(2, STEPS // 2), time.monotonic() + HUNG_AFTER_SECONDS
        while step_of(last_checkpoint(runs.output(name))) < target:
            assert time.monotonic() < deadline, f"{name}: no checkpoint of step {target}"
            time.sleep(0.001)
        time.sleep(draw.uniform(0, timing.each))
        with suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, case))
        ended = runs.finish(name)
        whole, broken = remove_broken_checkpoints(runs.output(name))
        again = runs.train(name, runs.keys(FULL), otr=otr, seed=2)
        result[kind] = {"ended": ended.error, "resumed from": step_of(whole), "broken": broken}
        if again.error:
            result[kind] |= {"error after resuming": again.error}
            continue
        found = outcome(runs.output(name))
        step = first_difference(found["log"], wanted["log"])
        result[kind] |= {"as the unbroken run": found["weights"] == wanted["weights"] and step is None}
    return result
