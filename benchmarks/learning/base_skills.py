"""The skills that a base model is pretrained on. They extend the string skills that the quickstart also uses.

Every question belongs to one split, which a checksum of its text decides. Pretraining and fine-tuning examples come
from `train`, learning rates are chosen on `validation`, and the reported figures come from `test`.

The texts that seed the random generators decide which questions the recorded results are about: do not change them.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable, Iterator

from benchmarks import string_skills
from benchmarks.learning.cards import FACES, LARGEST_FACE_VALUE, draw_signs_question, rule_text
from benchmarks.learning.vocabulary import NEW_CHARACTERS
from benchmarks.string_skills import Example


def split_of(question: str) -> str:
    """The split of a question: about 80% train, 10% validation, 10% test.

    The new characters that fine-tuning puts around a question do not change its split.
    """
    bucket = zlib.crc32(question.strip(NEW_CHARACTERS).encode()) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def subtract(draw: random.Random, size: int) -> Example:
    top = 10 ** min(size, 2) - 1
    a, b = draw.randint(0, top), draw.randint(0, top)
    return f"{max(a, b)}-{min(a, b)}", str(abs(a - b))


def recall(draw: random.Random, size: int) -> Example:
    """The value that the question assigns to one of its keys.

    The keys are in alphabetical order: with shuffled keys, the model of size cpu still guessed after 2,000 steps.
    """
    values = draw.choices(string.digits, k=size)
    index = draw.randrange(size)
    pairs = "".join(map("".join, zip(string.ascii_lowercase, values, strict=False)))
    return f"{pairs}?{string.ascii_lowercase[index]}", values[index]


def story(draw: random.Random, size: int) -> Example:
    """An addition or a subtraction in words."""
    who, what = draw.choice(("tom", "ann", "max", "eva", "sam")), draw.choice(("eggs", "nuts", "pens", "toys", "cups"))
    top = 10 ** min(size, 2) - 1
    a, b = draw.randint(0, top), draw.randint(0, top)
    if draw.random() < 0.5:
        return f"{who} has {a} {what} and gets {b}", str(a + b)
    return f"{who} has {max(a, b)} {what} and gives {min(a, b)}", str(abs(a - b))


def cards(draw: random.Random, size: int) -> Example:
    """The values of three cards. The question states the values of jack, queen and king."""
    rule = {face: draw.randint(10, LARGEST_FACE_VALUE) for face in FACES}
    hand = [draw.choice(FACES) if draw.random() < 0.6 else str(draw.randint(1, 9)) for _ in range(3)]
    return f"{rule_text(rule)}:{','.join(hand)}", ",".join(str(rule.get(card, card)) for card in hand)


def make(draw: random.Random, size: int) -> Example:
    """The signs that make a target from three numbers, or from two cards with a rule for face cards."""
    if draw.random() < 0.5:
        return draw_signs_question(draw, [str(draw.randint(1, LARGEST_FACE_VALUE)) for _ in range(3)], {})
    hand = [draw.choice(FACES), draw.choice([*FACES, *"123456789"])]
    draw.shuffle(hand)
    return draw_signs_question(draw, hand, {face: draw.randint(10, LARGEST_FACE_VALUE) for face in FACES})


Skill = Callable[[random.Random, int], Example]
BASE_SKILLS: dict[str, Skill] = {
    **{name: string_skills.SKILLS[name] for name in ("copy", "rev", "asc", "max", "next", "add")},
    "sub": subtract,
    "recall": recall,
    "story": story,
    "cards": cards,
    "make": make,
}
INPUT_SIZES = {"add": range(1, 3), "sub": range(1, 3), "story": range(1, 3), "recall": range(2, 6)}
STRING_SIZES = range(2, 8)  # letters or digits in a question of the skills that INPUT_SIZES does not name


def question_text(skill: str, body: str) -> str:
    return f"{body}=" if skill == "story" else f"{skill}:{body}="


def generate_examples(skill: str, split: str, seed: object, sizes: range | None = None) -> Iterator[Example]:
    """Questions of one skill and split with their answers, without end."""
    draw = random.Random(f"{skill} {split} {seed}")
    while True:
        body, answer = BASE_SKILLS[skill](draw, draw.choice(sizes or INPUT_SIZES.get(skill, STRING_SIZES)))
        question = question_text(skill, body)
        if split_of(question) == split:
            yield question, answer
