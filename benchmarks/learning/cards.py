"""Card questions in the manner of GeneralPoints: draw a hand, write the question, and check an answer."""

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
LARGEST_FACE_VALUE = 13
Term = tuple[Fraction, str]


def rule_text(rule: dict[str, int]) -> str:
    return "".join(f"{face}{value}" for face, value in rule.items())


def card_values(hand: list[str], rule: dict[str, int]) -> list[int]:
    return [int(rule.get(card, card)) for card in hand]


def signed_sums(numbers: list[int]) -> dict[str, int]:
    """Every expression that puts + or - between the numbers, with its value."""
    values = {}
    for signs in product("+-", repeat=len(numbers) - 1):
        text, value = str(numbers[0]), numbers[0]
        for sign, number in zip(signs, numbers[1:], strict=True):
            text += f"{sign}{number}"
            value += number if sign == "+" else -number
        values[text] = value
    return values


def draw_signs_question(draw: random.Random, hand: list[str], rule: dict[str, int]) -> Example:
    """A target that + and - can make from the hand, with the first expression that makes it.

    The question is the part between "make:" and "=".
    """
    values = signed_sums(card_values(hand, rule))
    target = draw.choice([value for value in values.values() if value >= 0])
    prefix = f"{rule_text(rule)}:" if rule else ""
    return f"{prefix}{','.join(hand)}>{target}", next(text for text, value in values.items() if value == target)


def draw_24_question(draw: random.Random, rule: dict[str, int]) -> Example:
    """Four cards that can make 24 with + - * and /, which is the original GeneralPoints task."""
    while True:
        hand = draw.choices([*FACES, *map(str, range(1, 11))], k=4)
        answer = _expression_for_24(tuple(sorted(card_values(hand, rule))))
        if answer is not None:
            return f"{rule_text(rule)}:{','.join(hand)}>24", answer


@functools.cache
def _expression_for_24(numbers: tuple[int, ...]) -> str | None:
    terms = [(Fraction(number), str(number)) for number in numbers]
    return next((text for value, text in _combinations(terms) if value == 24), None)


def _combinations(terms: list[Term]) -> Iterator[Term]:
    """Every value that an expression with all the terms can have, with that expression, in a fixed order."""
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
                    yield from _combinations(
                        [*rest, (value, f"{left}{sign}{right}" if not rest else f"({left}{sign}{right})")]
                    )


def solves(question: str, answer: str) -> bool | None:
    """Whether the answer uses every card once and makes the target; None if the question is not about cards."""
    parts = re.fullmatch(r"make:(?:([jqk\d]+):)?([jqk\d,]+)>(\d+)=", question)
    if parts is None:
        return None
    if not re.fullmatch(r"[\d+*/()-]{1,40}", answer):
        return False
    rule = {face: int(value) for face, value in re.findall(r"([jqk])(\d+)", parts[1] or "")}
    try:
        value, used = _evaluate(ast.parse(answer, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False
    return sorted(used) == sorted(card_values(parts[2].split(","), rule)) and value == int(parts[3])


def _evaluate(node: ast.expr) -> tuple[Fraction, list[int]]:
    """The exact value of an expression and the numbers in it."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value), [node.value]
    if not isinstance(node, ast.BinOp):
        raise ValueError(f"expected integers and binary operators, got {ast.dump(node)}")
    (a, left), (b, right) = _evaluate(node.left), _evaluate(node.right)
    if isinstance(node.op, ast.Add):
        return a + b, left + right
    if isinstance(node.op, ast.Sub):
        return a - b, left + right
    if isinstance(node.op, ast.Mult):
        return a * b, left + right
    if isinstance(node.op, ast.Div):
        return a / b, left + right
    raise ValueError(f"expected one of the operators + - * /, got {ast.dump(node.op)}")
