"""What the second edition trains on: three tasks of different kinds with clean, randomly wrong or believed answers, and
three tasks of the first edition.

The texts that seed the random generators decide which questions the recorded results are about: do not change them.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from benchmarks.learning import regimes
from benchmarks.learning.regimes import Draw, distinct_questions
from benchmarks.string_skills import SKILLS, Example

RANDOM, BELIEVED = "random", "believed"
SHARES = (10, 20, 30)  # percent of the training answers that are wrong
MOST_SHUFFLES = 100


@dataclass(frozen=True)
class Task:
    """One task. `believed` is the answer that a skill of the base model gives to the question instead."""

    description: str
    shift: str  # what differs out of distribution
    draw: Draw
    draw_shifted: Draw
    examples: int
    believed: Callable[[str], str] | None = None  # None: the task has no wrong answers in this study
    split_by: Callable[[str], str] = str  # the part of a question that decides its split

    def training_examples(self, seed: int, noise: str, share: int) -> list[Example]:
        """The examples of a seed. The same questions get a wrong answer of either kind, and keep it in every epoch."""
        examples = list(islice(distinct_questions(self.draw, "train", seed, self.split_by), self.examples))
        chosen = random.Random(f"wrong {seed}").sample(range(len(examples)), round(share / 100 * len(examples)))
        for i in chosen:
            question, answer = examples[i]
            examples[i] = question, self.wrong_answer(question, answer, noise)
        return examples

    def wrong_answer(self, question: str, answer: str, noise: str) -> str:
        assert self.believed is not None
        believed = self.believed(question)
        return believed if noise == BELIEVED else unlike(question, answer, believed)

    def questions(self, split: str, count: int, *, shifted: bool = False) -> list[Example]:
        draw = self.draw_shifted if shifted else self.draw
        return list(islice(distinct_questions(draw, split, "asked", self.split_by), count))


def unlike(question: str, answer: str, believed: str) -> str:
    """A wrong answer that is not the believed one: the right characters in another order, or a random number.

    It depends on the question alone. If the right characters have no third order, one of them is replaced.
    """
    draw, characters = random.Random(f"spoilt {question}"), list(answer)
    alphabet = string.digits if answer.isdigit() else string.ascii_lowercase
    for _ in range(MOST_SHUFFLES):
        if answer.isdigit():
            characters = draw.choices(string.digits, k=len(answer))
        else:
            draw.shuffle(characters)
        if "".join(characters) not in (answer, believed):
            return "".join(characters)
    while "".join(characters) in (answer, believed):
        characters[0] = draw.choice(alphabet)
    return "".join(characters)


def body_of(question: str) -> str:
    return question.partition(":")[2].removesuffix("=")


def descending(lengths: range) -> Draw:
    """The first edition's sorting, without words of one letter only, for which both orders are the same."""
    draw_any = regimes.sort_descending(lengths)

    def draw_example(draw: random.Random) -> Example:
        while True:
            question, answer = draw_any(draw)
            if answer != answer[::-1]:
                return question, answer

    return draw_example


def sum_backwards(digits: int) -> Draw:
    """The sum of two numbers below 100 that has so many digits, written backwards. Palindromes are left out."""

    def draw_example(draw: random.Random) -> Example:
        while True:
            body, answer = SKILLS["add"](draw, 2)
            if len(answer) == digits and answer != answer[::-1]:
                return f"addrev:{body}=", answer[::-1]

    return draw_example


def sum_of(question: str) -> str:
    a, b = body_of(question).split("+")
    return str(int(a) + int(b))


def hand_of(question: str) -> str:
    """The cards of a question, in alphabetical order: no hand is in two splits, whatever its order and target."""
    return ",".join(sorted(question.rpartition(":")[2].partition(">")[0].split(",")))


def _first_editions(name: str, split_by: Callable[[str], str] = str) -> Task:
    regime = regimes.REGIMES[name]
    return Task(regime.description, regime.shift, regime.draw, regime.draw_shifted, regime.examples, None, split_by)


LONGER = "words of 6 and 7 letters"
TASKS = {
    "sort": Task(
        "the letters of a word in descending order; believed: in ascending order",
        LONGER,
        descending(regimes.TRAINED_LENGTHS),
        descending(regimes.LONGER_LENGTHS),
        768,
        lambda question: "".join(sorted(body_of(question))),
    ),
    "map": Task(
        "a word backwards, and each letter replaced by the next; believed: the word backwards",
        LONGER,
        regimes.reverse_then_next(regimes.TRAINED_LENGTHS),
        regimes.reverse_then_next(regimes.LONGER_LENGTHS),
        256,
        lambda question: body_of(question)[::-1],
    ),
    "sum": Task(
        "the digits of a sum backwards; believed: the sum",
        "sums of three digits instead of two",
        sum_backwards(2),
        sum_backwards(3),
        768,
        sum_of,
    ),
    "points": _first_editions("points", hand_of),
    "format": _first_editions("format"),
    "epochs": _first_editions("epochs"),
}
NOISY_TASKS = tuple(name for name, task in TASKS.items() if task.believed is not None)


@dataclass(frozen=True)
class Regime:
    task: str
    noise: str = ""  # RANDOM, BELIEVED, or "" for right answers only
    share: int = 0

    def __str__(self) -> str:
        return f"{self.task} {self.noise} {self.share}" if self.noise else self.task

    @property
    def condition(self) -> str:
        """The noise without the task."""
        return f"{self.noise} {self.share}" if self.noise else "clean"


CONDITIONS = (("", 0), *((noise, share) for noise in (RANDOM, BELIEVED) for share in SHARES))
NOISY_REGIMES = tuple(Regime(task, noise, share) for task in NOISY_TASKS for noise, share in CONDITIONS)
OTHER_REGIMES = tuple(Regime(task) for task in TASKS if task not in NOISY_TASKS)
REGIMES = {str(regime): regime for regime in (*NOISY_REGIMES, *OTHER_REGIMES)}
