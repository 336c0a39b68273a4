"""Resumes a run whose last checkpoint was not written to its end, without deleting that checkpoint."""

from __future__ import annotations

from benchmarks.faults.runs import SAVE_STEPS, Runs
from benchmarks.hosts.features.feature import FULL
from otr_plugin.hosts.resume import STATE_FILE, last_checkpoint

CASE = "last checkpoint without its state"


def cell(runs: Runs) -> dict[str, str]:
    """The error of the resumed run, with OTR and without; "" if it trains on."""
    result = {}
    for otr, kind in ((False, "plain"), (True, "OTR")):
        name = f"broken {kind}"
        runs.clear(name)
        first = runs.train(name, runs.keys(FULL) | {"max_steps": 2 * SAVE_STEPS}, otr=otr)
        assert not first.error, first.error
        last = last_checkpoint(runs.output(name))
        assert last is not None
        (last / STATE_FILE).unlink()
        result[kind] = runs.train(name, runs.keys(FULL), otr=otr, clean=False).error.replace(str(last), "CHECKPOINT")
    return result
