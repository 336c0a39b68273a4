"""The small skills that examples and benchmarks train: right answers, and questions that stay unseen."""

from itertools import islice

import pytest

from benchmarks.string_skills import SKILLS, examples

KNOWN = {
    "copy": lambda q: q,
    "rev": lambda q: "".join(reversed(q)),
    "asc": lambda q: "".join(sorted(q)),
    "desc": lambda q: "".join(sorted(q, key=lambda c: -ord(c))),
    "max": lambda q: str(max(map(int, q))),
    "add": lambda q: str(sum(map(int, q.split("+")))),
    "next": lambda q: "".join("bcdefghijklmnopqrstuvwxyza"[ord(c) - ord("a")] for c in q),
}


@pytest.mark.parametrize("skill", SKILLS)
def test_answers_are_right_and_splits_apart(skill):
    def asked(seed, test):
        return list(islice(examples(skill, range(2, 6), seed, test=test), 300))

    for question, answer in asked(0, test=False) + asked(0, test=True):
        name, inner = question.removesuffix("=").split(":")
        assert name == skill
        assert answer == KNOWN[skill](inner)
    assert not {q for q, _ in asked(0, test=False)} & {q for q, _ in asked(1, test=True)}
    assert asked(0, test=True) == asked(0, test=True) != asked(1, test=True)
