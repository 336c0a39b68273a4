"""What a recipe takes, whether it fits a card, the longest sequence that does, and the same of other losses."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from otr_plugin.command.memory import step
from otr_plugin.command.memory.card import Card
from otr_plugin.command.memory.ledger import ACTIVATIONS, LOGITS, PARTS, Record
from otr_plugin.command.memory.plan import TrainingPlan
from otr_plugin.config import OTRConfig

ROOMY = Card("a card with room", 4096)
STEP = 128  # tokens
LONGEST = 2**20
RESOLUTION = 64  # the search ends at a 64th of the length

THIS, WHOLE, FUSED, WITH_OTR = "this recipe", "SFT, whole logits", "SFT, Liger's fused loss", "OTR"


@dataclass
class Estimate:
    """What a step of one plan takes."""

    name: str
    plan: TrainingPlan
    record: Record
    longest: int | None = None  # tokens of a row; None if it was not looked for, or none fits

    @property
    def bytes(self) -> int:
        return self.record.peak.total


def contenders(plan: TrainingPlan, against: str | None) -> dict[str, TrainingPlan]:
    """The plans to compare: the recipe's, and the same with other losses."""
    plans = {THIS: plan}
    if against == "sft":
        plans[WHOLE] = replace(plan, otr=None, liger=replace(plan.liger, fused_loss=False))
        plans[FUSED] = replace(plan, otr=None, liger=replace(plan.liger, fused_loss=True))
    if against == "otr":
        plans[WITH_OTR] = replace(plan, otr=OTRConfig(), liger=replace(plan.liger, fused_loss=False))
    return {name: one for name, one in plans.items() if name == THIS or one != plan}


def estimate(
    config: Any,
    name: str,
    plan: TrainingPlan,
    card: Card | None,
    look_for_longest: bool,
    count_layer: Callable[[], None],
) -> Estimate:
    """Count a step of the plan, and find the longest sequence that fits the card."""

    def measure(sequence: int) -> Record:
        record = step.run(
            copy.deepcopy(config), replace(plan, sequence=sequence), card or ROOMY, count_layer=count_layer
        )
        gc.collect()  # a model has reference cycles
        return record

    made = Estimate(name, plan, measure(plan.sequence))
    if look_for_longest and card is not None:
        peak = made.record.peak
        fixed = peak.total - sum(peak.parts[PARTS.index(part)] for part in (ACTIVATIONS, LOGITS))
        made.longest = _longest(lambda tokens: measure(tokens).peak.total, plan.sequence, made.bytes, fixed, card)
    return made


def _longest(measure: Callable[[int], int], first: int, taken: int, fixed: int, card: Card) -> int | None:
    """The largest multiple of STEP that fits, to within a 64th.

    Memory grows with the sequence in a line, or faster where there is a mask. So the line through two lengths that fit
    reaches the limit at the longest sequence or behind it, and few lengths have to be tried. `fixed` is what of the
    bytes `taken` at the length `first` does not grow.
    """
    points = {0: fixed, first: taken}
    halves = False
    while True:
        fitting = sorted(length for length, size in points.items() if size <= card.usable)
        too_long = min((length for length, size in points.items() if size > card.usable), default=LONGEST)
        low = fitting[-1] if fitting else 0
        resolution = max(STEP, low // RESOLUTION)
        behind = LONGEST if len(fitting) < 2 else _reached(points, fitting[-2], low, card.usable)
        if min(behind, too_long) - low <= resolution or not fitting:
            return low // STEP * STEP or None
        guess = behind
        if (
            behind >= too_long and too_long in points
        ):  # between two lengths, a line alone may come nearer from one side only
            guess = (low + too_long) // 2 if halves else _reached(points, low, too_long, card.usable)
            halves = not halves
        guess = max(guess // STEP * STEP, low // STEP * STEP + STEP)
        points[guess] = measure(guess)


def _reached(points: dict[int, int], a: int, b: int, usable: float) -> int:
    """Where the line through two lengths reaches the limit; LONGEST if it never does."""
    rise = points[b] - points[a]
    return LONGEST if rise <= 0 else min(LONGEST, int(a + (usable - points[a]) * (b - a) / rise))
