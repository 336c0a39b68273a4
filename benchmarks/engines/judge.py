"""Runs a cell, and decides what came out of it. Where OTR is not as one process, the engine is run without OTR, too."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from benchmarks.engines.cells import BF16, ENGINES, Cell
from benchmarks.engines.ranks import Ranks

SAME = "same"  # as one process, within rounding
REFUSED = "refused"  # by OTR, by name
ENGINES_ERROR = "engine's error"  # the engine does not train the model by its own loss either
ENGINES_OWN = "engine differs"  # so does the engine, with the model's own loss
DIFFERS, FAILS = "differs", "fails"
GOOD = (SAME, REFUSED, ENGINES_ERROR, ENGINES_OWN)

# Relative to the largest update of a parameter; losses and averages relative to their size. See training.run for what
# the errors are.
ROUNDING = {
    "float32": {"update": 1e-5, "loss": 1e-6, "metrics": 1e-5},
    BF16: {"update": 2**-5, "loss": 2**-7},
}
# Two runs that round in other places differ by about as much as each of them does from exact arithmetic. So OTR may be
# this many times as far from its reference as the engine without OTR is from one process, where that is rounding.
FARTHER = 3
OF_ROUNDING = {"float32": 1e-4, BF16: inf}  # the largest update error of an engine without OTR that is rounding


def judge(cell: Cell, ranks: Ranks) -> dict[str, Any]:
    """The cell's result, with its errors or a message."""
    outcome = ranks.run(cell)
    errors, bounds = largest(outcome), ROUNDING[ENGINES[cell.engine].precision]
    if errors is not None and within(errors, bounds):
        return {"result": SAME, "errors": errors}
    told = message(outcome)
    if told is not None and "otr: " in told:
        return {"result": REFUSED, "message": told}
    plain = ranks.run(replace(cell, plain=True))
    own = largest(plain)
    if own is None:
        return {"result": ENGINES_ERROR, "message": message(plain)}
    if errors is None:
        return {"result": FAILS, "message": told}
    allowed = {name: max(bound, FARTHER * own.get(name, 0.0)) for name, bound in bounds.items()}
    rounds = own["update"] <= OF_ROUNDING[ENGINES[cell.engine].precision]
    # Where the engine by itself trains otherwise, the metrics are of other weights, and there are none without OTR.
    compared = errors if rounds else {name: errors[name] for name in own}
    result = DIFFERS if not within(compared, allowed) else SAME if rounds else ENGINES_OWN
    return {"result": result, "errors": errors, "without OTR": own}


def within(errors: dict[str, float], bounds: dict[str, float]) -> bool:
    return all(error <= bounds[name] for name, error in errors.items())


def largest(outcome: list[dict[str, Any]]) -> dict[str, float] | None:
    """The largest errors of all ranks; None if a rank did not end."""
    if not all("result" in one for one in outcome):
        return None
    return {name: max(one["result"][name] for one in outcome) for name in outcome[0]["result"]}


def message(outcome: list[dict[str, Any]]) -> str | None:
    """The first error, of OTR if there is one; a rank that died is worse than either."""
    died = [f"a rank died: {one['died']}" for one in outcome if "died" in one]
    errors = [one["error"] for one in outcome if "error" in one]
    return next(iter([*died, *(error for error in errors if "otr: " in error), *errors]), None)
