"""The study's questions: correct answers, separate splits, and as many wrong training answers as a regime states."""

import re
from itertools import islice

import pytest

from benchmarks.learning.base_skills import BASE_SKILLS, generate_examples, split_of
from benchmarks.learning.regimes import (
    LONGER_LENGTHS,
    REGIMES,
    TRAINED_LENGTHS,
    epochs_of,
    is_correct,
    old_skill_questions,
)
from benchmarks.learning.vocabulary import NEW_CHARACTERS, decode, encode


def correct_answers(question):
    """Every correct answer, computed in another way than the study computes it."""
    text = question.strip("!").removesuffix("=")
    if " has " in text:
        a, b = map(int, re.findall(r"\d+", text))
        return {str(a + b if "gets" in text else a - b)}
    skill, _, body = text.partition(":")
    letters = "abcdefghijklmnopqrstuvwxyz"
    after = body.translate(str.maketrans(letters, letters[1:] + "a"))
    if skill == "recall":
        pairs, key = body.split("?")
        return {dict(zip(pairs[::2], pairs[1::2], strict=True))[key]}
    if skill == "cards":
        rule, hand = body.split(":")
        value_of = {face: re.search(rf"{face}(\d+)", rule)[1] for face in "jqk"}
        return {re.sub("[jqk]", lambda face: value_of[face[0]], hand)}
    if skill == "make":
        rule, hand = body.split(":") if ":" in body else ("", body)
        cards, target = hand.split(">")
        for face, value in re.findall(r"([jqk])(\d+)", rule):
            cards = cards.replace(face, value)
        found = {cards}
        for _ in range(cards.count(",")):
            found = {one.replace(",", s, 1) for one in found for s in "+-"}
        return {one for one in found if eval(one) == int(target)}
    simple = {
        "copy": body,
        "rev": "".join(reversed(body)),
        "asc": "".join(sorted(body)),
        "desc": "".join(sorted(body, key=lambda c: -ord(c))),
        "max": max(body),
        "next": after,
        "revnext": "".join(reversed(after)),
        "add": str(sum(map(int, body.split("+")))) if skill == "add" else "",
        "sub": str(eval(body)) if skill == "sub" else "",
    }
    return {simple[skill]}


def makes_24(question, answer):
    rule, hand = re.fullmatch(r"make:(.*):(.*)>24=", question).groups()
    for face, value in re.findall(r"([jqk])(\d+)", rule):
        hand = hand.replace(face, value)
    numbers = sorted(map(int, hand.split(",")))
    return sorted(map(int, re.findall(r"\d+", answer))) == numbers and abs(eval(answer) - 24) < 1e-9


@pytest.mark.parametrize("skill", BASE_SKILLS)
def test_base_skills_have_correct_answers_and_separate_splits(skill):
    splits = {split: list(islice(generate_examples(skill, split, 0), 200)) for split in ("train", "validation", "test")}
    for split, pairs in splits.items():
        for question, answer in pairs:
            assert answer in correct_answers(question), question
            assert is_correct(question, answer, answer)
            assert split_of(question) == split
            assert not set(question + answer) & set(NEW_CHARACTERS)  # otherwise they would not be new to a base model
            assert decode([*encode(question + answer), 2, 5]) == question + answer
    questions = [{question for question, _ in pairs} for pairs in splits.values()]
    assert not questions[0] & questions[1]
    assert not questions[0] & questions[2]
    assert not questions[1] & questions[2]


@pytest.mark.parametrize("name", REGIMES)
def test_regimes_have_correct_answers_and_separate_splits(name):
    regime = REGIMES[name]
    evaluated = {"validation": regime.validation(300), "test": regime.test(300), "shifted": regime.shifted_test(300)}
    trained = [regime.training_examples(seed) for seed in range(3)]
    for pairs in (*evaluated.values(), *([] if regime.wrong else trained)):
        for question, answer in pairs:
            if name == "24":
                assert makes_24(question, answer), question
                continue
            plain = answer.strip("[]") if name == "format" else answer
            assert plain in correct_answers(question), question
            assert name != "format" or answer == f"[{plain}]"
    trained_questions = {question for pairs in trained for question, _ in pairs}
    for kind, pairs in evaluated.items():
        questions = {question for question, _ in pairs}
        assert len(questions) == len(pairs) >= (200 if name == "points" else 300), kind
        assert not questions & trained_questions, kind
        assert {split_of(question) for question in questions} == {"validation" if kind == "validation" else "test"}
    assert not {q for q, _ in evaluated["test"]} & {q for q, _ in evaluated["shifted"]}
    assert len(trained[0]) == regime.examples
    assert trained[0] == regime.training_examples(0) != trained[1]


@pytest.mark.parametrize("name", ["wrong0", "wrong10", "wrong30"])
def test_the_stated_share_of_training_answers_is_wrong(name):
    pairs = REGIMES[name].training_examples(0)
    wrong = [(q, a) for q, a in pairs if a not in correct_answers(q)]
    assert len(wrong) == round(REGIMES[name].wrong * len(pairs))
    assert all(len(a) == len(q.removeprefix("desc:")) - 1 for q, a in wrong)
    assert [q for q, _ in pairs] == [q for q, _ in REGIMES["wrong0"].training_examples(0)]  # only the answers differ


def test_out_of_distribution_questions_differ_from_training_in_length_or_rule():
    lengths = {len(answer) for _, answer in REGIMES["compose"].test(300)}
    assert lengths <= set(TRAINED_LENGTHS)
    assert {len(answer) for _, answer in REGIMES["compose"].shifted_test(300)} <= set(LONGER_LENGTHS)
    assert all("j10q10k10" in q for q, _ in REGIMES["points"].training_examples(0) + REGIMES["points"].test(200))
    assert all("j11q12k13" in q for q, _ in REGIMES["points"].shifted_test(200))
    assert all(set(q.split(":")[2]) & set("jqk") for q, _ in REGIMES["points"].training_examples(0))


@pytest.mark.parametrize(
    ("answer", "correct"),
    [
        ("3+5+10", True),
        ("10+3+5", True),  # another order of the same cards
        ("3+5+11", False),  # the values of another rule
        ("8+10", False),  # cards are missing
        ("3+5+10+0", False),
        ("3+5+10...", False),  # no end token
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
def test_a_hand_of_cards_has_several_correct_answers(answer, correct):
    assert is_correct("make:j10q10k10:3,5,j>18=", "3+5+10", answer) == correct


def test_every_epoch_has_every_example_once_in_another_order():
    pairs = REGIMES["epochs"].training_examples(0)
    first, second = (lambda stream: (list(islice(stream, 48)), list(islice(stream, 48))))(epochs_of(pairs, 0))
    assert sorted(first) == sorted(second) == sorted(pairs)
    assert first != second
    assert list(islice(epochs_of(pairs, 0), 48)) == first != list(islice(epochs_of(pairs, 1), 48))


def test_every_old_skill_has_the_same_number_of_questions():
    questions = [question for question, _ in old_skill_questions(110)]
    assert len(questions) == 110
    for skill in BASE_SKILLS:
        assert skill == "story" or sum(question.startswith(f"{skill}:") for question in questions) == 10
