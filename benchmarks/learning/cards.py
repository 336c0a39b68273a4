"""Hands of cards that make a number, after GeneralPoints: questions, demonstrations, and what counts as right."""

from __future__ import annotations

import ast
import functools
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

from benchmarks.string_skills import Example

FACES = "jqk"
BIGGEST = 13  # the king's number
Term = tuple[Fraction, str]


def rule_text(rule: dict[str, int]) -> str:
    return "".join(f"{face}{value}" for face, value in rule.items())


def signed(numbers: list[int]) -> dict[str, int]:
    """Every way to put + and - between the numbers, with its value."""
    values = {}
    for signs in product("+-", repeat=len(numbers) - 1):
        text, value = str(numbers[0]), numbers[0]
        for sign, number in zip(signs, numbers[1:], strict=True):
            text += f"{sign}{number}"
            value += number if sign == "+" else -number
        values[text] = value
    return values


def to_make(draw: random.Random, hand: list[str], rule: dict[str, int]) -> Example:
    """A question that has an answer, after "make:" and before "="; and its first answer, in the order of the signs."""
    values = signed(worth(hand, rule))
    target = draw.choice([value for value in values.values() if value >= 0])
    said = f"{rule_text(rule)}:" if rule else ""
    return f"{said}{','.join(hand)}>{target}", next(text for text, value in values.items() if value == target)


def worth(hand: list[str], rule: dict[str, int]) -> list[int]:
    return [int(rule.get(card, card)) for card in hand]


def to_24(draw: random.Random, rule: dict[str, int]) -> Example:
    """Four cards that make 24 by + - * and /, the original task."""
    while True:
        hand = draw.choices([*FACES, *map(str, range(1, 11))], k=4)
        answer = _solution(tuple(sorted(worth(hand, rule))))
        if answer is not None:
            return f"{rule_text(rule)}:{','.join(hand)}>24", answer


@functools.cache
def _solution(numbers: tuple[int, ...]) -> str | None:
    terms = [(Fraction(number), str(number)) for number in numbers]
    return next((text for value, text in _combined(terms) if value == 24), None)


def _combined(terms: list[Term]) -> Iterator[Term]:
    """Everything that all the terms make together, in a fixed order."""
    if len(terms) == 1:
        yield terms[0]
        return
    for i, (a, left) in enumerate(terms):
        for j, (b, right) in enumerate(terms):
            if i == j:
                continue
            rest = [term for n, term in enumerate(terms) if n not in (i, j)]
            for sign, value in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a / b if b else None)):
                if value is not None and (i < j or sign in "-/"):
                    yield from _combined(
                        [*rest, (value, f"{left}{sign}{right}" if not rest else f"({left}{sign}{right})")]
                    )


def makes(question: str, said: str) -> bool | None:
    """Whether this makes the number from each card once; None of a question that is not about cards."""
    asked = re.fullmatch(r"make:(?:([jqk\d]+):)?([jqk\d,]+)>(\d+)=", question)
    if asked is None:
        return None
    if not re.fullmatch(r"[\d+*/()-]{1,40}", said):
        return False
    rule = {face: int(value) for face, value in re.findall(r"([jqk])(\d+)", asked[1] or "")}
    try:
        value, used = _read(ast.parse(said, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return sorted(used) == sorted(worth(asked[2].split(","), rule)) and value == int(asked[3])


def _read(node: ast.expr) -> tuple[Fraction, list[int]]:
    """An expression's value and its numbers, exactly."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value), [node.value]
    if not isinstance(node, ast.BinOp):
        raise ValueError(f"not made of numbers and signs: {ast.dump(node)}")
    (a, left), (b, right) = _read(node.left), _read(node.right)
    if isinstance(node.op, ast.Add):
        return a + b, left + right
    if isinstance(node.op, ast.Sub):
        return a - b, left + right
    if isinstance(node.op, ast.Mult):
        return a * b, left + right
    if isinstance(node.op, ast.Div):
        return a / b, left + right
    raise ValueError(f"not a sign of the game: {ast.dump(node.op)}")
