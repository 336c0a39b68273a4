"""The generated questions of the small skills: right answers, and held-out questions that training never contains."""

from itertools import islice

import pytest

from benchmarks.string_skills import SKILLS, examples

EXPECTED = {
    "copy": lambda q: q,
    "rev": lambda q: "".join(reversed(q)),
    "asc": lambda q: "".join(sorted(q)),
    "desc": lambda q: "".join(sorted(q, key=lambda c: -ord(c))),
    "max": lambda q: str(max(map(int, q))),
    "add": lambda q: str(sum(map(int, q.split("+")))),
    "next": lambda q: "".join("bcdefghijklmnopqrstuvwxyza"[ord(c) - ord("a")] for c in q),
}


def first_300(skill, seed, *, test):
    return list(islice(examples(skill, range(2, 6), seed, test=test), 300))


@pytest.mark.parametrize("skill", SKILLS)
def test_answers_are_right(skill):
    for question, answer in first_300(skill, 0, test=False) + first_300(skill, 0, test=True):
        name, inner = question.removesuffix("=").split(":")
        assert name == skill
        assert answer == EXPECTED[skill](inner)


@pytest.mark.parametrize("skill", SKILLS)
def test_held_out_questions_are_never_trained(skill):
    trained = {question for question, _ in first_300(skill, 0, test=False)}
    assert not trained & {question for question, _ in first_300(skill, 1, test=True)}


@pytest.mark.parametrize("skill", SKILLS)
def test_examples_depend_on_the_seed_only(skill):
    assert first_300(skill, 0, test=True) == first_300(skill, 0, test=True) != first_300(skill, 1, test=True)
