"""The study's questions: right answers, splits that stay apart, and demonstrations that are wrong where they should."""

import re
from itertools import islice

import pytest

from benchmarks.learning.regimes import LONGER, REGIMES, TRAINED, in_turn, old_skills, right
from benchmarks.learning.skills import BASE, NEW, decode, encode, examples, split_of


def known(question):
    """Every right answer, worked out in another way than the study does."""
    body = question.strip("!").removesuffix("=")
    if " has " in body:
        a, b = map(int, re.findall(r"\d+", body))
        return {str(a + b if "gets" in body else a - b)}
    skill, _, inner = body.partition(":")
    letters = "abcdefghijklmnopqrstuvwxyz"
    after = inner.translate(str.maketrans(letters, letters[1:] + "a"))
    if skill == "recall":
        pairs, asked = inner.split("?")
        return {dict(zip(pairs[::2], pairs[1::2], strict=True))[asked]}
    if skill == "cards":
        rule, hand = inner.split(":")
        worth = {face: re.search(rf"{face}(\d+)", rule)[1] for face in "jqk"}
        return {re.sub("[jqk]", lambda face: worth[face[0]], hand)}
    if skill == "make":
        rule, hand = inner.split(":") if ":" in inner else ("", inner)
        cards, target = hand.split(">")
        for face, value in re.findall(r"([jqk])(\d+)", rule):
            cards = cards.replace(face, value)
        found = {cards}
        for _ in range(cards.count(",")):
            found = {one.replace(",", s, 1) for one in found for s in "+-"}
        return {one for one in found if eval(one) == int(target)}
    simple = {
        "copy": inner,
        "rev": "".join(reversed(inner)),
        "asc": "".join(sorted(inner)),
        "desc": "".join(sorted(inner, key=lambda c: -ord(c))),
        "max": max(inner),
        "next": after,
        "revnext": "".join(reversed(after)),
        "add": str(sum(map(int, inner.split("+")))) if skill == "add" else "",
        "sub": str(eval(inner)) if skill == "sub" else "",
    }
    return {simple[skill]}


def makes_24(question, answer):
    rule, hand = re.fullmatch(r"make:(.*):(.*)>24=", question).groups()
    for face, value in re.findall(r"([jqk])(\d+)", rule):
        hand = hand.replace(face, value)
    numbers = sorted(map(int, hand.split(",")))
    return sorted(map(int, re.findall(r"\d+", answer))) == numbers and abs(eval(answer) - 24) < 1e-9


@pytest.mark.parametrize("skill", BASE)
def test_base_skills_are_right_and_their_splits_apart(skill):
    splits = {split: list(islice(examples(skill, split, 0), 200)) for split in ("train", "validation", "test")}
    for split, pairs in splits.items():
        for question, answer in pairs:
            assert answer in known(question), question
            assert right(question, answer, answer)
            assert split_of(question) == split
            assert not set(question + answer) & set(NEW)  # new tokens are new
            assert decode([*encode(question + answer), 2, 5]) == question + answer
    questions = [{question for question, _ in pairs} for pairs in splits.values()]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]
    assert not questions[1] & questions[2]


@pytest.mark.parametrize("name", REGIMES)
def test_regimes_are_right_and_their_splits_apart(name):
    regime = REGIMES[name]
    asked = {"validation": regime.validation(300), "near": regime.test(300), "far": regime.far_test(300)}
    trained = [regime.train(seed) for seed in range(3)]
    for pairs in (*asked.values(), *([] if regime.wrong else trained)):
        for question, answer in pairs:
            if name == "24":
                assert makes_24(question, answer), question
                continue
            plain = answer.strip("[]") if name == "format" else answer
            assert plain in known(question), question
            assert name != "format" or answer == f"[{plain}]"
    shown = {question for pairs in trained for question, _ in pairs}
    for what, pairs in asked.items():
        questions = {question for question, _ in pairs}
        assert len(questions) == len(pairs) >= (200 if name == "points" else 300), what
        assert not questions & shown, what
        assert {split_of(question) for question in questions} == {"validation" if what == "validation" else "test"}
    assert not {q for q, _ in asked["near"]} & {q for q, _ in asked["far"]}
    assert len(trained[0]) == regime.examples
    assert trained[0] == regime.train(0) != trained[1]


@pytest.mark.parametrize("name", ["wrong0", "wrong10", "wrong30"])
def test_as_many_demonstrations_are_wrong_as_said(name):
    pairs = REGIMES[name].train(0)
    wrong = [(q, a) for q, a in pairs if a not in known(q)]
    assert len(wrong) == round(REGIMES[name].wrong * len(pairs))
    assert all(len(a) == len(q.removeprefix("desc:")) - 1 for q, a in wrong)
    assert [q for q, _ in pairs] == [q for q, _ in REGIMES["wrong0"].train(0)]  # only the answers differ


def test_far_is_far():
    lengths = {len(answer) for _, answer in REGIMES["compose"].test(300)}
    assert lengths <= set(TRAINED)
    assert {len(answer) for _, answer in REGIMES["compose"].far_test(300)} <= set(LONGER)
    assert all("j10q10k10" in q for q, _ in REGIMES["points"].train(0) + REGIMES["points"].test(200))
    assert all("j11q12k13" in q for q, _ in REGIMES["points"].far_test(200))
    assert all(set(q.split(":")[2]) & set("jqk") for q, _ in REGIMES["points"].train(0))


@pytest.mark.parametrize(
    ("said", "correct"),
    [
        ("3+5+10", True),
        ("10+3+5", True),  # another order of the same cards
        ("3+5+11", False),  # another rule
        ("8+10", False),  # cards are missing
        ("3+5+10+0", False),
        ("3+5+10...", False),  # no end of text
        ("3+5-10", False),
        ("(3+10)+5", True),
        ("3+5++10", False),
        ("18", False),
        ("3+(5+10", False),
        ("3+5+10/(5-5)", False),
        ("__import__", False),
        ("", False),
    ],
)
def test_a_hand_of_cards_has_several_right_answers(said, correct):
    assert right("make:j10q10k10:3,5,j>18=", "3+5+10", said) == correct


def test_epochs_show_everything_once_in_an_order_of_their_own():
    pairs = REGIMES["epochs"].train(0)
    first, second = (lambda turn: (list(islice(turn, 48)), list(islice(turn, 48))))(in_turn(pairs, 0))
    assert sorted(first) == sorted(second) == sorted(pairs)
    assert first != second
    assert list(islice(in_turn(pairs, 0), 48)) == first != list(islice(in_turn(pairs, 1), 48))


def test_old_skills_are_asked_equally():
    asked = [question for question, _ in old_skills(110)]
    assert len(asked) == 110
    assert all(sum(question.startswith(f"{skill}:") for question in asked) == 10 for skill in BASE if skill != "story")
