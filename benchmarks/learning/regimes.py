"""What the base models are fine-tuned on: tasks and data conditions in which the losses may differ.

The texts that seed the random generators decide which questions the recorded results are about: do not change them.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from benchmarks.learning.base_skills import (
    BASE_SKILLS,
    INPUT_SIZES,
    STRING_SIZES,
    generate_examples,
    question_text,
    split_of,
)
from benchmarks.learning.cards import FACES, draw_24_question, draw_signs_question, solves
from benchmarks.string_skills import SKILLS, Example

TRAINED_LENGTHS, LONGER_LENGTHS = range(3, 6), range(6, 8)  # letters in a word
TRAINED_RULE, CHANGED_RULE = dict.fromkeys(FACES, 10), dict(zip(FACES, (11, 12, 13), strict=True))
MAX_REPEATED_DRAWS = 5000  # after that many draws without a new question, the questions are taken to be exhausted
Draw = Callable[[random.Random], Example]


@dataclass(frozen=True)
class Regime:
    """One task: its training examples and its questions in and out of distribution."""

    description: str  # as printed on the page
    shift: str  # what differs out of distribution, as printed on the page
    draw: Draw
    draw_shifted: Draw  # questions out of distribution
    examples: int
    wrong: float = 0.0  # share of the training examples whose answer is wrong

    def training_examples(self, seed: int, multiplier: int = 1) -> list[Example]:
        """The examples of one seed. A wrong answer stays the same in every epoch."""
        examples = list(islice(distinct_questions(self.draw, "train", seed), multiplier * self.examples))
        chosen = random.Random(f"wrong {seed}").sample(range(len(examples)), round(self.wrong * len(examples)))
        for i in chosen:
            examples[i] = with_wrong_answer(*examples[i])
        return examples

    def validation(self, count: int) -> list[Example]:
        return list(islice(distinct_questions(self.draw, "validation", "asked"), count))

    def test(self, count: int) -> list[Example]:
        return list(islice(distinct_questions(self.draw, "test", "asked"), count))

    def shifted_test(self, count: int) -> list[Example]:
        """Test questions out of distribution."""
        return list(islice(distinct_questions(self.draw_shifted, "test", "asked"), count))


def distinct_questions(
    draw_example: Draw, split: str, seed: object, split_by: Callable[[str], str] = str
) -> Iterator[Example]:
    """Different questions of one split until no more are found: the card regimes have only some hundred to test.

    `split_by` returns the part of a question that decides its split.
    """
    draw, seen, repeated = random.Random(f"{split} {seed}"), set(), 0
    while repeated < MAX_REPEATED_DRAWS:
        question, answer = draw_example(draw)
        repeated += 1
        if split_of(split_by(question)) == split and question not in seen:
            seen.add(question)
            repeated = 0
            yield question, answer


def with_wrong_answer(question: str, answer: str) -> Example:
    """The question with its answer's letters in a wrong random order, which depends on the question alone."""
    draw, letters = random.Random(f"spoilt {question}"), list(answer)
    while "".join(letters) == answer:
        draw.shuffle(letters)
        if len(set(letters)) == 1:
            letters[0] = draw.choice(string.ascii_lowercase)
    return question, "".join(letters)


def sort_descending(lengths: range) -> Draw:
    def draw_example(draw: random.Random) -> Example:
        body, answer = SKILLS["desc"](draw, draw.choice(lengths))
        return f"desc:{body}=", answer

    return draw_example


def reverse_then_next(lengths: range) -> Draw:
    """Reverse a word, then replace each letter by its successor: the base models learnt both skills only separately."""

    def draw_example(draw: random.Random) -> Example:
        body, backwards = BASE_SKILLS["rev"](draw, draw.choice(lengths))
        successor = dict(zip(string.ascii_lowercase, string.ascii_lowercase[1:] + "a", strict=True))
        return f"revnext:{body}=", "".join(successor[letter] for letter in backwards)

    return draw_example


def make_target(rule: dict[str, int]) -> Draw:
    """Three cards, at least one of them a face card, the values of face cards, and the number to make."""

    def draw_example(draw: random.Random) -> Example:
        hand = [str(draw.randint(1, 9)), draw.choice(FACES)]
        hand.append(draw.choice([*FACES, *string.digits[1:]]))
        draw.shuffle(hand)
        body, answer = draw_signs_question(draw, hand, rule)
        return f"make:{body}=", answer

    return draw_example


def make_24(rule: dict[str, int]) -> Draw:
    def draw_example(draw: random.Random) -> Example:
        body, answer = draw_24_question(draw, rule)
        return f"make:{body}=", answer

    return draw_example


def with_new_tokens(skills: tuple[str, ...]) -> Draw:
    """A base skill whose question and answer are marked with tokens that no base model was pretrained on."""

    def draw_example(draw: random.Random) -> Example:
        skill = draw.choice(skills)
        body, answer = BASE_SKILLS[skill](draw, draw.choice(INPUT_SIZES.get(skill, TRAINED_LENGTHS)))
        return f"!{question_text(skill, body)}", f"[{answer}]"

    return draw_example


def _sorting(description: str, examples: int, wrong: float = 0.0) -> Regime:
    trained, longer = sort_descending(TRAINED_LENGTHS), sort_descending(LONGER_LENGTHS)
    return Regime(description, "words of 6 and 7 letters", trained, longer, examples, wrong)


REGIMES = {
    "compose": Regime(
        "two known skills applied one after the other; 64 examples",
        "words of 6 and 7 letters",
        reverse_then_next(TRAINED_LENGTHS),
        reverse_then_next(LONGER_LENGTHS),
        64,
    ),
    "points": Regime(
        "signs that make a number from three cards, where every question states J = Q = K = 10; 512 examples",
        "questions that state J = 11, Q = 12, K = 13",
        make_target(TRAINED_RULE),
        make_target(CHANGED_RULE),
        512,
    ),
    "24": Regime(
        "four cards make 24 with + - * /, as in GeneralPoints, where J = Q = K = 10; 512 examples; SFT only",
        "questions that state J = 11, Q = 12, K = 13",
        make_24(TRAINED_RULE),
        make_24(CHANGED_RULE),
        512,
    ),
    "wrong0": _sorting("sorting letters in descending order; 768 examples, all correct", 768),
    "wrong10": _sorting("as wrong0, but 10% of the answers are wrong at random", 768, 0.1),
    "wrong30": _sorting("as wrong0, but 30% of the answers are wrong at random", 768, 0.3),
    "format": Regime(
        "known skills with the answer between tokens that are new to the model; 256 examples",
        "the same format with other known skills",
        with_new_tokens(("rev", "asc", "next")),
        with_new_tokens(("copy", "max", "add")),
        256,
    ),
    "epochs": _sorting("sorting letters in descending order; 48 examples, repeated for many epochs", 48),
}


def old_skill_questions(total: int) -> list[Example]:
    """Test questions of the base skills, the same number of each."""
    each = -(-total // len(BASE_SKILLS))
    by_skill = [
        islice(generate_examples(skill, "test", "old", INPUT_SIZES.get(skill, STRING_SIZES)), each)
        for skill in BASE_SKILLS
    ]
    return [example for examples in by_skill for example in examples]


def is_correct(question: str, expected: str, answer: str) -> bool:
    """Whether the answer is correct. Several answers to a card question can be."""
    solved = solves(question, answer)
    return answer == expected if solved is None else solved


def epochs_of(examples: list[Example], seed: int) -> Iterator[Example]:
    """Training examples without end, each epoch in its own random order, which is the same for every method."""
    for epoch in count():
        order = list(examples)
        random.Random(f"order {seed} {epoch}").shuffle(order)
        yield from order
