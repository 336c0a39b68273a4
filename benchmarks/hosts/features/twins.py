"""Runs a feature's twin, and compares the two runs step by step."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.hosts.driver import HostDriver
from benchmarks.hosts.features.feature import FULL, Feature
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.features.worker import NOT_DISTURBED, Run, Worker

# The bounds of tests/hosts/agreement.py, relative: losses to printed precision, and gradient norms.
LOSS, NORM = 2e-6, 5e-5
OTHERS = {"float32": 5e-6, "float16": 2**-11, "bfloat16": 2**-8}  # for what else is logged, such as eval_loss

SAME = "same digits"
ROUNDED = "same within rounding"  # see `allow_for_rounding`
REFUSED = "refused"
HOSTS_ERROR = "host's own error"  # the host does not run the recipe here either
NO_EFFECT = "no effect"  # the log is that of the run without the feature: the recipe does not test it
DIFFERS = "differs"
FAILS = "fails with OTR"  # by an error that does not refuse the feature

SEEDS = (1, 2)  # of the disturbed runs that `allow_for_rounding` compares with
FARTHER = 3

# Entries of a log that depend on the clock or on the machine.
CLOCK = re.compile(r"per_sec|time|memory|mem_|tokens_per|tkps|tps|speed|percentage|flos|elapsed|remain")
OTRS_MESSAGE = re.compile(r"\botr: |One-Token Rollout|OTRConfig: ")


Distances = Mapping[str, float]


class Twins:
    """Runs features of one host in one folder. A process starts when the first run needs its environment."""

    def __init__(self, name: str, host: Host, driver: HostDriver) -> None:
        self.name, self.host, self.driver = name, host, driver
        self._workers: dict[tuple[tuple[str, str], ...], Worker] = {}

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def run(self, name: str, reference: Mapping[str, Any] | None) -> dict[str, Any]:
        """Returns the feature's cell. `reference` is the cell of the feature that it is added to."""
        feature = self.host.features[name]
        plain, ours = (self._run(feature, name, otr=otr) for otr in (False, True))
        cell = judge(feature, plain, ours, None if feature is self.host.features[FULL] else reference)
        if cell["result"] == DIFFERS and "loss" in cell:
            disturbances = [f"{seed}:{feature.precision}" for seed in SEEDS]
            disturbed = [self._run(feature, name, otr=False, disturbance=each) for each in disturbances]
            allow_for_rounding(feature, cell, plain, [run for run in disturbed if len(run.steps) == len(plain.steps)])
        return cell

    def _run(self, feature: Feature, name: str, *, otr: bool, disturbance: str = NOT_DISTURBED) -> Run:
        kind = "otr" if otr else "plain" if disturbance == NOT_DISTURBED else f"disturbed-{disturbance[0]}"
        slug = re.sub(r"\W+", "-", f"{name} {kind}")
        before = f"{slug}-before"
        if feature.before is not None:
            earlier = self.host.recipe(feature) | dict(feature.before)
            first = self._train(before, feature, earlier, before, otr=otr, disturbance=disturbance)
            if first.error:
                return first
        return self._train(slug, feature, self.host.recipe(feature), before, otr=otr, disturbance=disturbance)

    def _train(
        self,
        slug: str,
        feature: Feature,
        recipe: dict[str, Any],
        before: str,
        *,
        otr: bool,
        disturbance: str = NOT_DISTURBED,
    ) -> Run:
        folder = self.driver.folder
        recipe = filled(recipe, {"{folder}": str(folder), "{before}": str(folder / before)})
        path = self.driver.recipe(slug, **(self.host.with_otr(recipe, objective="sft") if otr else recipe))
        return self._worker(feature.environment).run(path, disturbance)

    def _worker(self, environment: Mapping[str, str]) -> Worker:
        key = tuple(sorted(environment.items()))
        if key not in self._workers:
            self._workers[key] = Worker(self.name, self.driver, environment)
        return self._workers[key]


def filled(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: filled(part, places) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [filled(part, places) for part in value]
    if isinstance(value, str):
        for place, path in places.items():
            value = value.replace(place, path)
    return value


def judge(feature: Feature, plain: Run, ours: Run, reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the result of a twin, with the plain run's digits and the largest relative difference, or a message."""
    if OTRS_MESSAGE.search(ours.error):
        alone = _message(plain.error) if plain.error else "trains"
        return {"result": REFUSED, "message": _message(ours.error), "the host alone": alone}
    if plain.error:
        return {"result": HOSTS_ERROR, "message": _message(plain.error)}
    cell: dict[str, Any] = {"result": DIFFERS, "digits": plain.steps, "logged": _logged(plain.log)}
    if ours.error:
        return cell | {"result": FAILS, "message": _message(ours.error)}
    if len(plain.steps) < 2 or not all(math.isfinite(value) for step in plain.steps for value in step):
        return cell | {"result": HOSTS_ERROR, "message": f"the host logs {plain.steps}"}
    if not all("otr/objective" in entry for entry in ours.log if "loss" in entry):
        return cell | {"message": "OTR's metrics are not in the log"}
    if len(ours.steps) != len(plain.steps):
        return cell | {"message": f"{len(plain.steps)} steps, {len(ours.steps)} with OTR"}
    if missing := _missing(plain.log, ours.log):
        return cell | {"message": f"not in the log: {', '.join(missing)}"}
    cell |= _distances(plain, ours)
    if not within(cell, bounds(feature)):
        return cell | {"message": f"loss by {cell['loss']:.1e}, gradient norm by {cell['norm']:.1e}, {cell['other']}"}
    if reference is not None and not feature.silent and _does_nothing(cell, reference):
        return cell | {"result": NO_EFFECT, "message": f"logs what {feature.on} logs"}
    del cell["other"]
    return cell | {"result": SAME}


def bounds(feature: Feature) -> Distances:
    return {"loss": LOSS, "norm": NORM, "others": OTHERS[feature.precision]}


def within(cell: Mapping[str, Any], bounds: Distances) -> bool:
    return all(cell[name] <= bound for name, bound in bounds.items())


def allow_for_rounding(feature: Feature, cell: dict[str, Any], plain: Run, disturbed: list[Run]) -> None:
    """Changes the result of a cell if rounding explains the difference.

    Some optimisers amplify the last digit of a gradient: RMSprop divides a gradient that is zero but for rounding by
    its own size, and Muon does the like with singular values. In bf16 the last digit is large to begin with.
    `disturbed` are runs of the host alone, from weights that differ by as much as rounding to the precision of the
    feature makes. OTR's run may be FARTHER times as far from the plain run as the farthest of them.
    """
    if not disturbed:
        return
    distances = [_distances(plain, run) for run in disturbed]
    cell["rounding"] = {name: max(distance[name] for distance in distances) for name in bounds(feature)}
    allowed = {name: max(bound, FARTHER * cell["rounding"][name]) for name, bound in bounds(feature).items()}
    if within(cell, allowed):
        cell["result"] = ROUNDED
        del cell["message"], cell["other"]


def _does_nothing(cell: Mapping[str, Any], reference: Mapping[str, Any]) -> bool:
    return all(cell[name] == reference.get(name) for name in ("digits", "logged"))


def _logged(log: Log) -> dict[str, int]:
    """How often each name is in the log."""
    return dict(sorted(Counter(name for entry in log for name in entry).items()))


def _distances(plain: Run, ours: Run) -> dict[str, Any]:
    """The largest relative differences of losses, gradient norms and what else is logged; and which `other` that is."""
    loss, norm = (
        max(_relative(own[i], mine[i]) for own, mine in zip(plain.steps, ours.steps, strict=True)) for i in (0, 1)
    )
    others = {
        f"{name} {value} and {mine[name]}": _relative(value, mine[name])
        for own, mine in zip(plain.log, ours.log, strict=False)
        for name, value in _compared(own)
        if name in mine
    }
    other = max(others, key=others.__getitem__, default="nothing else")
    return {"loss": loss, "norm": norm, "others": others.get(other, 0.0), "other": other}


def _relative(own: float, ours: float) -> float:
    return abs(ours - own) / max(abs(own), 1e-6)


def _compared(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers in an entry of the log, beside loss and gradient norm, that OTR has to leave alone."""
    for name, value in entry.items():
        if name not in ("loss", "grad_norm") and not CLOCK.search(name) and isinstance(value, int | float):
            yield name, value


def _missing(plain: Log, ours: Log) -> list[str]:
    pairs = zip(plain, ours, strict=False)
    return sorted({name for own, mine in pairs for name, _ in _compared(own) if name not in mine})


def _message(error: str) -> str:
    """An error in one line. pydantic's and accelerate's errors begin with lines that say nothing."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    text = re.sub(r" \[type=\w+, input_value=.*", "", " ".join(lines))  # what pydantic adds
    if match := re.search(r"(?:`plugins: \[otr\]`|`loss_type: otr`) trains with One-Token Rollout.*", text):
        text = match[0]
    return re.sub(r"(?<![\w:/])(/[\w.\-]+){2,}/", "…/", text)[:400].rstrip()
