"""Searches in batches: calls of otr_loss, a few of them with Triton's kernel, and operations on attached models."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from benchmarks.fuzz_python.calls import Case, cases
from benchmarks.fuzz_python.judge import problem_of

OPTIONS: dict[str, Any] = {
    "phases": [Phase.generate],
    "database": None,
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
}
BATCH = {"torch": 1500, "triton": 100, "attach": 20}  # examples of each kind
OPERATIONS = 20  # at most, on one model


@dataclass
class Findings:
    """What a search has tried, and what was wrong."""

    examples: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, kind: str, case: Case) -> None:
        self.examples[kind] += 1
        self.outcomes[f"a mistake in {case.mistake.argument}" if case.mistake else "right"] += 1
        problem = problem_of(case)
        if problem is not None:
            self.fail(f"{kind}: {problem}\n{case}")

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(text, flush=True)


def search(number: int, minutes: float, batch: dict[str, int] = BATCH) -> Findings:
    """Searches in batches, with the seed `number` and those after it, until the minutes are over."""
    findings, start = Findings(), time.monotonic()
    while True:
        for kind, kernel in (("torch", "auto"), ("triton", "triton")):
            _of_calls(findings, number, kind, kernel, batch[kind])
        _of_models(findings, number, batch["attach"])
        findings.seconds = time.monotonic() - start
        number += 1
        if findings.seconds > 60 * minutes:
            return findings


def _of_calls(findings: Findings, number: int, kind: str, kernel: str, examples: int) -> None:
    @seed(number)
    @settings(max_examples=examples, **OPTIONS)
    @given(cases(kernel))
    def judge(case: Case) -> None:
        findings.add(kind, case)

    judge()


def _of_models(findings: Findings, number: int, examples: int) -> None:
    from benchmarks.fuzz_python.attached import AttachedModel  # needs transformers and PEFT

    AttachedModel.operations = Counter()
    machine = seed(number)(AttachedModel)
    try:
        run_state_machine_as_test(
            machine, settings=settings(max_examples=examples, stateful_step_count=OPERATIONS, **OPTIONS)
        )
    except Exception as error:  # of an operation or of a comparison
        findings.fail("attach: " + "".join(traceback.format_exception(error)))
    findings.examples["attach"] += AttachedModel.operations["model"]
    findings.outcomes.update(AttachedModel.operations)
