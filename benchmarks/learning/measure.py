"""What a model is asked, and what is made of its answers."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.learning.regimes import right
from benchmarks.learning.skills import END, PAD, decode, encode
from benchmarks.skills import Example

ROWS = 512  # answers that are generated at a time


@torch.no_grad()
def generate(model: Any, questions: list[Example], samples: int = 1, seed: int | None = None) -> list[list[str]]:
    """Answers to every question: the greedy one, or `samples` drawn at temperature 1."""
    model.eval()
    said: list[list[str]] = []
    longest = max(len(answer) for _, answer in questions) + 2
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(questions), ROWS // samples):
            asked = [encode(question) for question, _ in questions[start : start + ROWS // samples]]
            width = max(map(len, asked))
            ids = torch.tensor([[PAD] * (width - len(row)) + row for row in asked], device=model.device)
            out = model.generate(
                input_ids=ids,
                attention_mask=(ids != PAD).long(),
                max_new_tokens=longest,
                do_sample=seed is not None,
                temperature=1.0 if seed is not None else None,
                top_k=0 if seed is not None else None,
                num_return_sequences=samples,
                pad_token_id=PAD,
                eos_token_id=END,
            )
            answers = [decode(row) for row in out[:, width:].tolist()]
            said += [answers[i : i + samples] for i in range(0, len(answers), samples)]
    return said


def accuracy(model: Any, questions: list[Example]) -> float:
    """The share of questions that greedy decoding answers rightly, end of text included."""
    said = generate(model, questions)
    return sum(right(q, a, first) for (q, a), (first,) in zip(questions, said, strict=True)) / len(questions)
