"""Small skills on letters and digits: generated questions, each with one right answer, of which a tenth is held out."""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CHARACTERS = string.ascii_lowercase + string.digits + ":=+"
Example = tuple[str, str]  # (question, answer)


def _letters(draw: random.Random, size: int) -> str:
    return "".join(draw.choices(string.ascii_lowercase, k=size))


def copy(draw: random.Random, size: int) -> Example:
    s = _letters(draw, size)
    return s, s


def reverse(draw: random.Random, size: int) -> Example:
    s = _letters(draw, size)
    return s, s[::-1]


def ascending(draw: random.Random, size: int) -> Example:
    s = _letters(draw, size)
    return s, "".join(sorted(s))


def descending(draw: random.Random, size: int) -> Example:
    s = _letters(draw, size)
    return s, "".join(sorted(s, reverse=True))


def largest(draw: random.Random, size: int) -> Example:
    s = "".join(draw.choices(string.digits, k=size))
    return s, max(s)


def add(draw: random.Random, size: int) -> Example:
    top = 10 ** min(size, 2) - 1
    a, b = draw.randint(0, top), draw.randint(0, top)
    return f"{a}+{b}", str(a + b)


def following(draw: random.Random, size: int) -> Example:
    s = _letters(draw, size)
    after = dict(zip(string.ascii_lowercase, string.ascii_lowercase[1:] + "a", strict=True))
    return s, "".join(after[letter] for letter in s)


SKILLS: dict[str, Callable[[random.Random, int], Example]] = {
    "copy": copy,
    "rev": reverse,
    "asc": ascending,
    "desc": descending,
    "max": largest,
    "add": add,
    "next": following,
}


def held_out(question: str) -> bool:
    """Whether the question is held out from training: a tenth of all questions, chosen by a checksum of their text."""
    return zlib.crc32(question.encode()) % 10 == 0


def examples(skill: str, sizes: range, seed: int, *, test: bool) -> Iterator[Example]:
    """Yields without end pairs ("skill:input=", "answer") that are held out (`test`) or that are not."""
    draw = random.Random(f"{skill} {seed}")
    while True:
        inner, answer = SKILLS[skill](draw, draw.choice(sizes))
        question = f"{skill}:{inner}="
        if held_out(question) == test:
            yield question, answer


def save_tokenizer(folder: Path) -> Any:
    """Saves a tokenizer with one token for each character to the folder, and returns it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *CHARACTERS]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    tokenizer.save_pretrained(folder)
    return tokenizer
