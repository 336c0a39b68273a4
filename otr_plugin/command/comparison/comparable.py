"""How runs differ, and whether their figures may be compared: model, data, seed, tokens, versions, first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any

from otr_plugin.command.comparison.course import COUNTERS, UNITS
from otr_plugin.command.comparison.run import ARGUMENTS, CARD, RECORD, TRAINER, Run
from otr_plugin.config import OTRConfig

SAME, DIFFERS, UNKNOWN = "same", "differs", "not recorded"
FIRST_STEP_TOLERANCE = 0.01  # relative; the kernels' and dtypes' rounding is far below, another batch far above
FEWEST_COUNTS = 5


@dataclass
class Check:
    """`values`: one text for each run. `evidence`: what the verdict rests on, besides."""

    name: str
    verdict: str
    values: list[str]
    evidence: str = ""


@dataclass
class Difference:
    setting: str
    values: list[Any] = field(default_factory=list)


def otr_settings(run: Run) -> dict[str, Any]:
    """OTR's settings by name, with the defaults of those that an older version did not save."""
    if run.otr is None:
        return {}
    return {name: run.otr.get(name, model.default) for name, model in OTRConfig.model_fields.items()} if run.otr else {}


def differences_of_otr(runs: Sequence[Run]) -> list[Difference]:
    """Which loss, and OTR's settings that differ among the runs that have it, or that are no defaults."""
    found = [Difference("loss", [loss_of(run) for run in runs])]
    settings = [otr_settings(run) for run in runs]
    for name, model in OTRConfig.model_fields.items():
        values = [each.get(name) for each in settings]
        known = [value for value, each in zip(values, settings, strict=True) if each]
        if name != "objective" and any(value != model.default for value in known):
            found.append(
                Difference(name, [value if each else None for value, each in zip(values, settings, strict=True)])
            )
    return found


def loss_of(run: Run) -> str:
    if run.otr is None:
        return "the host's own"
    return str(run.otr.get("objective", "otr, settings not recorded yet"))


def differences_of_settings(runs: Sequence[Run]) -> list[Difference]:
    """The host's settings that differ, in the files that all runs have: what only one file says may be so in all."""
    settings = [run.settings(common_layers(runs)) for run in runs]
    found = [Difference(name, [each.get(name) for each in settings]) for name in sorted({*chain(*settings)})]
    return [each for each in found if any(value != each.values[0] for value in each.values)]


def common_layers(runs: Sequence[Run]) -> list[str]:
    """The files with settings that all runs have; the plugin's record replaces the recipe in a model card."""
    common = [layer for layer in (CARD, RECORD, ARGUMENTS, TRAINER) if all(layer in run.layers for run in runs)]
    return [layer for layer in common if layer != CARD or RECORD not in common]


def checks(runs: Sequence[Run]) -> list[Check]:
    made = [
        _check("model", [run.model for run in runs]),
        _data(runs),
        _check("seed", [_seeds(run) for run in runs]),
        _tokens(runs),
        _versions(runs),
    ]
    return [*made, *([start] if (start := _first_step(runs)) else [])]


def _check(name: str, values: Sequence[Any], evidence: str = "") -> Check:
    known = [value for value in values if value is not None]
    verdict = DIFFERS if len({str(value) for value in known}) > 1 else SAME if len(known) == len(values) else UNKNOWN
    return Check(name, verdict, ["-" if value is None else str(value) for value in values], evidence)


def _seeds(run: Run) -> str | None:
    if run.seeds.get("seed") is None:
        return None
    more = "" if run.seeds.get("data_seed") is None else f", data {run.seeds['data_seed']}"
    return f"{run.seeds['seed']}{more}"


def _data(runs: Sequence[Run]) -> Check:
    """By name, and by the counts of tokens at every step, which depend on the examples and their order."""
    check = _check("data", [run.data for run in runs])
    if all(run.fingerprint for run in runs):
        check = _check("data", [f"{run.data or 'rows'}, fingerprint {run.fingerprint}" for run in runs])
    counts = same_counts(runs)
    if counts is None or check.verdict == DIFFERS:
        return check
    steps, name, unequal = counts
    if len(unequal) <= max(1, steps // 20):  # a resume can change a host's counter once
        check.evidence = f"as many {UNITS[name]} at {steps - len(unequal)} of {steps} logged steps"
        check.verdict = SAME
    else:
        check.evidence = f"other numbers of {UNITS[name]} from step {unequal[0]} on"
        check.verdict = DIFFERS
    return check


def same_counts(runs: Sequence[Run]) -> tuple[int, str, list[int]] | None:
    """The number of steps at which all runs count their tokens, the counter, and the steps where it grew otherwise.

    None where the batches are not of the same size, or where a counter mostly grows by the same number: it counts
    padding, which other examples would have too.
    """
    if unlike_batches(runs):
        return None
    for name in COUNTERS:
        counted = [{each["step"]: each[name] for each in run.log if each.get(name, 0) > 0} for run in runs]
        steps = sorted(set.intersection(*(set(each) for each in counted)))
        growth = [counted[0][b] - counted[0][a] for a, b in pairwise(steps)]
        spans = [b - a for a, b in pairwise(steps)]
        kinds = {a / b for a, b in zip(growth, spans, strict=True)}
        if len(steps) < FEWEST_COUNTS or len(kinds) < len(growth) / 2:
            continue
        unequal = [b for a, b in pairwise(steps) if len({each[b] - each[a] for each in counted}) > 1]
        return len(steps), name, unequal
    return None


def unlike_batches(runs: Sequence[Run]) -> list[str]:
    """What decides the number of tokens of a step, and is not the same in all runs that recorded it."""
    values = {name: {str(run.tokens[name]) for run in runs if run.tokens[name] is not None} for name in runs[0].tokens}
    return [name for name, known in values.items() if len(known) > 1]


def _tokens(runs: Sequence[Run]) -> Check:
    """What decides how many tokens a step has, and how many steps are planned: the learning rate follows them."""
    unlike = unlike_batches(runs)
    planned = [run.planned_steps for run in runs]
    if len({each for each in planned if each is not None}) > 1:
        unlike.append("steps")
    shown = unlike or ["micro-batch", "accumulation", "processes", "length", "steps"]
    values = []
    for run in runs:
        known = run.tokens | {"steps": run.planned_steps}
        values.append(", ".join(f"{name} {known[name]}" for name in shown if known[name] is not None))
    recorded = all(run.tokens["micro-batch"] is not None and run.planned_steps is not None for run in runs)
    return Check("tokens", DIFFERS if unlike else SAME if recorded else UNKNOWN, values)


def _versions(runs: Sequence[Run]) -> Check:
    """Of the packages whose versions several runs recorded; a run without OTR need not have the plugin."""
    names = list(dict.fromkeys(name for run in runs for name in run.versions))
    shared = [name for name in names if sum(name in run.versions for run in runs) > 1]
    unlike = [name for name in shared if len({run.versions[name] for run in runs if name in run.versions}) > 1]
    hosts = [run.host for run in runs]
    if len({host for host in hosts if host}) > 1:
        return Check("versions", DIFFERS, [str(host) for host in hosts], "runs of different hosts")
    shown = unlike or [
        name for name in shared if name in ("axolotl", "llamafactory", "ms-swift", "trl", "transformers", "torch")
    ]
    values = [
        ", ".join(f"{name} {run.versions[name]}" for name in shown if name in run.versions) or "-" for run in runs
    ]
    recorded = all(any(name != "otr-plugin" for name in run.versions) for run in runs)
    return Check("versions", DIFFERS if unlike else SAME if recorded else UNKNOWN, values)


def _first_step(runs: Sequence[Run]) -> Check | None:
    """The NLL of step 1, before any update, is the same for runs that start from one model with one batch."""
    first = [next((each for each in run.log if each["step"] == 1), {}) for run in runs]
    values = [float(each.get("otr/nll", each.get("loss", math.nan))) for each in first]
    if not all(map(math.isfinite, values)):
        return None
    apart = max(abs(value - values[0]) for value in values) / max(abs(values[0]), 1e-6)
    verdict = SAME if apart <= FIRST_STEP_TOLERANCE else DIFFERS
    evidence = (
        "before any update: same model and batch" if verdict == SAME else "before any update: another model or batch"
    )
    return Check("NLL of step 1", verdict, [f"{value:.4f}" for value in values], evidence)
