"""Reads many cases of a host, and reports those that are read otherwise than a person reads them."""

from __future__ import annotations

import collections
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis.errors import NoSuchExample

from benchmarks.fuzz.cases import Case, Plain, Reading, judge
from benchmarks.fuzz.hosts import HOSTS
from benchmarks.fuzz.readers import READERS, WithoutThePackage, difference
from benchmarks.fuzz.strategy import cases

NO_HEALTH_CHECKS = tuple(HealthCheck)  # of hypothesis: the readers are slower than the tests that it is made for


class Checker:
    """A host's reader, and beside it a process without this package, which reads the plain recipes again."""

    def __init__(self, host: str, folder: Path) -> None:
        self.host = host
        self.without = WithoutThePackage(host, folder)  # imports the host while this process does
        self.reader = READERS[host](host, folder)
        self.host_refuses = re.compile(HOSTS[host].refuses)

    def problem(self, case: Case) -> tuple[str, Reading] | None:
        """What is wrong with the reading of the case, and the reading; None if it is as expected."""
        reading = self.reader.read(case)
        problem = judge(case.outcome, reading, self.host_refuses)
        if problem is None and isinstance(case.outcome, Plain):
            problem = difference(reading, self.without.read(case))
        return None if problem is None else (problem, reading)

    def close(self) -> None:
        self.without.close()
        self.reader.close()


@dataclass
class Findings:
    """What a search has read, by the mutations of the cases."""

    examples: int = 0
    seconds: float = 0.0
    outcomes: dict[str, collections.Counter[str]] = field(default_factory=dict)  # by mutation
    failures: dict[tuple[tuple[str, ...], str], list[Case]] = field(default_factory=dict)

    def add(self, case: Case, problem: tuple[str, Reading] | None) -> None:
        self.examples += 1
        for name in case.mutations or ("none",):
            self.outcomes.setdefault(name, collections.Counter())[type(case.outcome).__name__] += 1
        if problem is not None:
            self.failures.setdefault((case.mutations, problem[0]), []).append(case)


def search(checker: Checker, examples: int, number: int, minutes: float | None = None) -> Findings:
    """Reads so many cases, drawn with the seed `number`; or batches of them until the minutes are over."""
    findings, start = Findings(), time.monotonic()
    while True:

        @seed(number)
        @settings(
            max_examples=examples,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=NO_HEALTH_CHECKS,
        )
        @given(cases(checker.host))
        def read(case: Case) -> None:
            findings.add(case, checker.problem(case))

        read()
        findings.seconds = time.monotonic() - start
        number += 1
        if minutes is None or findings.seconds > 60 * minutes:
            return findings


def smallest(checker: Checker, mutations: tuple[str, ...], problem: str) -> Case | None:
    """The smallest case with these mutations that has this problem, if one is found again."""

    def matches(case: Case) -> bool:
        if case.mutations != mutations:
            return False
        found = checker.problem(case)
        return found is not None and found[0] == problem

    options = settings(max_examples=200, database=None, deadline=None, suppress_health_check=NO_HEALTH_CHECKS)
    only = mutations[0] if mutations else None
    try:
        return find(cases(checker.host, only), matches, settings=options)
    except NoSuchExample:
        return None


def report(checker: Checker, findings: Findings, most: int = 20, minimised: int = 3) -> str:
    """The smallest case of the most frequent kinds of failure, and how the host reads it."""
    lines = []
    for (mutations, problem), failed in sorted(findings.failures.items(), key=lambda item: -len(item[1]))[:most]:
        case = min(failed, key=lambda case: len(case.text))
        if len(mutations) < 2 and minimised:
            minimised -= 1
            case = smallest(checker, mutations, problem) or case
        found = checker.problem(case)
        got = "as expected, when it is read again" if found is None else f"{found[1]}"[:1500]
        lines.append(f"{len(failed)} x {problem}\n{case}\ngot: {got}\n")
    return "\n".join(lines)
