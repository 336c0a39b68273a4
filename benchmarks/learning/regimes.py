"""What the base models are fine-tuned on: the cases in which the losses should differ."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from benchmarks.learning.cards import FACES, makes, to_24, to_make
from benchmarks.learning.skills import BASE, SIZES, STRINGS, examples, question_of, split_of
from benchmarks.string_skills import SKILLS, Example

TRAINED, LONGER = range(3, 6), range(6, 8)  # letters of a word
RULE, OTHER_RULE = dict.fromkeys(FACES, 10), dict(zip(FACES, (11, 12, 13), strict=True))
ENOUGH = 5000  # draws that bring nothing new
Draw = Callable[[random.Random], Example]


@dataclass(frozen=True)
class Regime:
    """`draw` makes questions as they are trained; `far` makes those that are out of distribution."""

    what: str  # in the page's words
    far_is: str
    draw: Draw
    far: Draw
    examples: int
    wrong: float = 0.0  # share of the demonstrations that are

    def train(self, seed: int, more: int = 1) -> list[Example]:
        """Other seeds have other examples. Wrong ones stay as they are however often they are seen."""
        pairs = list(islice(unseen(self.draw, "train", seed), more * self.examples))
        for i in random.Random(f"wrong {seed}").sample(range(len(pairs)), round(self.wrong * len(pairs))):
            pairs[i] = spoilt(*pairs[i])
        return pairs

    def validation(self, asked: int) -> list[Example]:
        return list(islice(unseen(self.draw, "validation", "asked"), asked))

    def test(self, asked: int) -> list[Example]:
        return list(islice(unseen(self.draw, "test", "asked"), asked))

    def far_test(self, asked: int) -> list[Example]:
        return list(islice(unseen(self.far, "test", "asked"), asked))


def unseen(make: Draw, split: str, seed: object) -> Iterator[Example]:
    """Different questions of one split, as many as there are: of cards there are some hundred to test."""
    draw, seen, in_vain = random.Random(f"{split} {seed}"), set(), 0
    while in_vain < ENOUGH:
        question, answer = make(draw)
        in_vain += 1
        if split_of(question) == split and question not in seen:
            seen.add(question)
            in_vain = 0
            yield question, answer


def spoilt(question: str, answer: str) -> Example:
    """The right letters in a wrong order, the same for every method and seed."""
    draw, letters = random.Random(f"spoilt {question}"), list(answer)
    while "".join(letters) == answer:
        draw.shuffle(letters)
        if len(set(letters)) == 1:
            letters[0] = draw.choice(string.ascii_lowercase)
    return question, "".join(letters)


def sorted_down(sizes: range) -> Draw:
    def draw(dice: random.Random) -> Example:
        inner, answer = SKILLS["desc"](dice, dice.choice(sizes))
        return f"desc:{inner}=", answer

    return draw


def composed(sizes: range) -> Draw:
    """Backwards, then each letter's successor: the base models know both, and never did one after the other."""

    def draw(dice: random.Random) -> Example:
        inner, backwards = BASE["rev"](dice, dice.choice(sizes))
        after = dict(zip(string.ascii_lowercase, string.ascii_lowercase[1:] + "a", strict=True))
        return f"revnext:{inner}=", "".join(after[letter] for letter in backwards)

    return draw


def points(rule: dict[str, int]) -> Draw:
    """A hand with a face card at least, what face cards count, and the number to make."""

    def draw(dice: random.Random) -> Example:
        hand = [str(dice.randint(1, 9)), dice.choice(FACES)]
        hand.append(dice.choice([*FACES, *string.digits[1:]]))
        dice.shuffle(hand)
        inner, answer = to_make(dice, hand, rule)
        return f"make:{inner}=", answer

    return draw


def twenty_four(rule: dict[str, int]) -> Draw:
    def draw(dice: random.Random) -> Example:
        inner, answer = to_24(dice, rule)
        return f"make:{inner}=", answer

    return draw


def wrapped(skills: tuple[str, ...]) -> Draw:
    """A known skill, asked and answered with tokens that no base model has ever seen."""

    def draw(dice: random.Random) -> Example:
        skill = dice.choice(skills)
        inner, answer = BASE[skill](dice, dice.choice(SIZES.get(skill, TRAINED)))
        return f"!{question_of(skill, inner)}", f"[{answer}]"

    return draw


def _desc(what: str, examples: int, wrong: float = 0.0) -> Regime:
    return Regime(what, "words of 6 and 7 letters", sorted_down(TRAINED), sorted_down(LONGER), examples, wrong)


REGIMES = {
    "compose": Regime(
        "two known skills, one after the other, from 64 examples",
        "words of 6 and 7 letters",
        composed(TRAINED),
        composed(LONGER),
        64,
    ),
    "points": Regime(
        "cards to a number, J, Q and K counting 10, as every question says; 512 examples",
        "questions that say J is 11, Q is 12, K is 13",
        points(RULE),
        points(OTHER_RULE),
        512,
    ),
    "24": Regime(
        "four cards to 24 by + - * /, as in GeneralPoints, J, Q and K counting 10; 512 examples, SFT only",
        "questions that say J is 11, Q is 12, K is 13",
        twenty_four(RULE),
        twenty_four(OTHER_RULE),
        512,
    ),
    "wrong0": _desc("sorting letters downwards; 768 examples, all right", 768),
    "wrong10": _desc("the same, 10% of the examples wrong", 768, 0.1),
    "wrong30": _desc("the same, 30% of the examples wrong", 768, 0.3),
    "format": Regime(
        "known skills, the answer between new tokens; 256 examples",
        "the same format asked of other known skills",
        wrapped(("rev", "asc", "next")),
        wrapped(("copy", "max", "add")),
        256,
    ),
    "epochs": _desc("sorting letters downwards from 48 examples, again and again", 48),
}


def old_skills(asked: int) -> list[Example]:
    """What the base model could do before."""
    each = -(-asked // len(BASE))
    pairs = [islice(examples(skill, "test", "old", SIZES.get(skill, STRINGS)), each) for skill in BASE]
    return [pair for some in pairs for pair in some]


def right(question: str, answer: str, said: str) -> bool:
    """Cards can make a number in several ways, and each of them is right."""
    made = makes(question, said)
    return said == answer if made is None else made


def in_turn(pairs: list[Example], seed: int) -> Iterator[Example]:
    """Training examples in epochs, each in an order of its own; every method sees the same."""
    for epoch in count():
        order = list(pairs)
        random.Random(f"order {seed} {epoch}").shuffle(order)
        yield from order
