"""What the base models know before anything is fine-tuned, and how a text becomes tokens.

A question belongs to one split for good, by a checksum of its text: the base models and the fine-tuning data come from
`train`, learning rates are chosen on `validation`, and what is reported was asked from `test`.
"""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable, Iterator

import torch

from benchmarks import string_skills as small
from benchmarks.learning.cards import BIGGEST, FACES, rule_text, to_make
from benchmarks.string_skills import Example

NEW = "[]!"  # in the vocabulary, and in no text that a base model sees
KNOWN = ["<pad>", "<s>", "</s>", "<unk>", *small.CHARACTERS, *"-?,> ", *NEW, *"*/()"]
WORDS = KNOWN + [f"<unused {i}>" for i in range(64 - len(KNOWN))]
IDS = {word: i for i, word in enumerate(WORDS)}
IGNORED = -100
PAD, END = IDS["<pad>"], IDS["</s>"]


def encode(text: str) -> list[int]:
    return [IDS[character] for character in text]


def decode(ids: list[int]) -> str:
    """Up to the end of text; what has no end is no answer, and is marked by a character that no answer has."""
    if END not in ids:
        return "".join(WORDS[i] for i in ids) + "..."
    return "".join(WORDS[i] for i in ids[: ids.index(END)])


def split_of(question: str) -> str:
    """Marks that fine-tuning puts before a question do not move it to another split."""
    bucket = zlib.crc32(question.strip(NEW).encode()) % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")


def subtract(draw: random.Random, size: int) -> Example:
    top = 10 ** min(size, 2) - 1
    a, b = draw.randint(0, top), draw.randint(0, top)
    return f"{max(a, b)}-{min(a, b)}", str(abs(a - b))


def recall(draw: random.Random, size: int) -> Example:
    """The value that was given to a key. Keys come in order: in any, size cpu was still guessing after 2,000 steps."""
    values = draw.choices(string.digits, k=size)
    asked = draw.randrange(size)
    pairs = "".join(map("".join, zip(string.ascii_lowercase, values, strict=False)))
    return f"{pairs}?{string.ascii_lowercase[asked]}", values[asked]


def story(draw: random.Random, size: int) -> Example:
    who, what = draw.choice(("tom", "ann", "max", "eva", "sam")), draw.choice(("eggs", "nuts", "pens", "toys", "cups"))
    top = 10 ** min(size, 2) - 1
    a, b = draw.randint(0, top), draw.randint(0, top)
    if draw.random() < 0.5:
        return f"{who} has {a} {what} and gets {b}", str(a + b)
    return f"{who} has {max(a, b)} {what} and gives {min(a, b)}", str(abs(a - b))


def cards(draw: random.Random, size: int) -> Example:
    """The numbers of a hand, where the question itself says what jack, queen and king count."""
    rule = {face: draw.randint(10, BIGGEST) for face in FACES}
    hand = [draw.choice(FACES) if draw.random() < 0.6 else str(draw.randint(1, 9)) for _ in range(3)]
    return f"{rule_text(rule)}:{','.join(hand)}", ",".join(str(rule.get(card, card)) for card in hand)


def make(draw: random.Random, size: int) -> Example:
    """Signs between three numbers, or between two cards with a rule, so that they make what is asked."""
    if draw.random() < 0.5:
        return to_make(draw, [str(draw.randint(1, BIGGEST)) for _ in range(3)], {})
    hand = [draw.choice(FACES), draw.choice([*FACES, *"123456789"])]
    draw.shuffle(hand)
    return to_make(draw, hand, {face: draw.randint(10, BIGGEST) for face in FACES})


Skill = Callable[[random.Random, int], Example]
BASE: dict[str, Skill] = {
    **{name: small.SKILLS[name] for name in ("copy", "rev", "asc", "max", "next", "add")},
    "sub": subtract,
    "recall": recall,
    "story": story,
    "cards": cards,
    "make": make,
}
SIZES = {"add": range(1, 3), "sub": range(1, 3), "story": range(1, 3), "recall": range(2, 6)}
STRINGS = range(2, 8)  # letters or digits of the others


def question_of(skill: str, inner: str) -> str:
    return f"{inner}=" if skill == "story" else f"{skill}:{inner}="


def examples(skill: str, split: str, seed: object, sizes: range | None = None) -> Iterator[Example]:
    """Endless questions of one split, with their answers."""
    draw = random.Random(f"{skill} {split} {seed}")
    while True:
        inner, answer = BASE[skill](draw, draw.choice(sizes or SIZES.get(skill, STRINGS)))
        question = question_of(skill, inner)
        if split_of(question) == split:
            yield question, answer


def batch_of(pairs: list[Example], device: torch.device) -> dict[str, torch.Tensor]:
    """Questions with their answers; only answers are trained."""
    rows, labels = [], []
    for question, answer in pairs:
        q, a = encode(question), [*encode(answer), END]
        rows.append(torch.tensor(q + a))
        labels.append(torch.tensor([IGNORED] * len(q) + a))
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=PAD)
    return {"input_ids": ids.to(device), "labels": pad(labels, batch_first=True, padding_value=IGNORED).to(device)}
