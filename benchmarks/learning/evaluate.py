"""What a model is asked, and what is made of its answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.regimes import right
from benchmarks.learning.skills import END, IGNORED, PAD, batch_of, decode, encode
from benchmarks.string_skills import Example

ROWS = 512  # answers that are generated at a time
BINS = 10


@torch.no_grad()
def generate(model: Any, questions: list[Example], samples: int = 1, seed: int | None = None) -> list[list[str]]:
    """Answers to every question: the greedy one, or `samples` drawn at temperature 1."""
    model.eval()
    draw: dict[str, Any] = {"do_sample": False}
    if seed is not None:
        draw = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    said: list[list[str]] = []
    longest = max(len(answer) for _, answer in questions) + 2
    each = max(1, ROWS // samples)
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(questions), each):
            asked = [encode(question) for question, _ in questions[start : start + each]]
            width = max(map(len, asked))
            ids = torch.tensor([[PAD] * (width - len(row)) + row for row in asked], device=model.device)
            out = model.generate(
                input_ids=ids,
                attention_mask=(ids != PAD).long(),
                max_new_tokens=longest,
                num_return_sequences=samples,
                pad_token_id=PAD,
                eos_token_id=END,
                **draw,
            )
            answers = [decode(row) for row in out[:, width:].tolist()]
            said += [answers[i : i + samples] for i in range(0, len(answers), samples)]
    return said


def accuracy(model: Any, questions: list[Example]) -> float:
    """The share of questions that greedy decoding answers rightly, end of text included."""
    said = generate(model, questions)
    return sum(right(q, a, first) for (q, a), (first,) in zip(questions, said, strict=True)) / len(questions)


def pass_at(model: Any, questions: list[Example], samples: int, seed: int) -> dict[str, float]:
    """pass@k for powers of 4 up to `samples`."""
    said = generate(model, questions, samples, seed)
    hits = [sum(right(q, a, one) for one in some) for (q, a), some in zip(questions, said, strict=True)]
    ks = [4**i for i in range(10) if 4**i <= samples]
    return {str(k): sum(at_least_one(samples, hit, k) for hit in hits) / len(hits) for k in ks}


def at_least_one(samples: int, hits: int, k: int) -> float:
    """How probable a right answer is among k of the samples: 1 - C(n - c, k) / C(n, k), without bias."""
    return 1 - math.comb(samples - hits, k) / math.comb(samples, k)


@torch.no_grad()
def confidence(model: Any, questions: list[Example]) -> dict[str, float]:
    """At every token of the right answers: how sure the model is, and how often it is right to be."""
    model.eval()
    batch = batch_of(questions, model.device)
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    logits, labels = logits[labels != IGNORED], labels[labels != IGNORED]
    logp = logits.log_softmax(-1)
    best, token = logp.exp().max(-1)
    return {
        "nll": -logp.gather(1, labels[:, None]).mean().item(),
        "entropy": -(logp.exp() * logp).sum(-1).mean().item(),
        "ece": calibration_error(best, token == labels),
    }


def calibration_error(sure: Tensor, correct: Tensor) -> float:
    """Expected calibration error: in ten bins of confidence, how far it is from the share that was right."""
    which = (sure * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for i in range(BINS):
        inside = which == i
        if inside.any():
            error += (sure[inside].sum() - correct[inside].sum()).abs().item()
    return error / len(sure)


def noise_of(gradients: Iterable[Tensor]) -> tuple[float, float]:
    """Variance of the gradients and square of their mean's norm, both without bias. Keeps one gradient at a time."""
    count, squares, total = 0, 0.0, torch.zeros(())
    for gradient in gradients:
        count += 1
        total = total + gradient.double()
        squares += gradient.double().square().sum().item()
    whole = total.square().sum().item()
    variance = (squares - whole / count) / (count - 1)
    return variance, whole / count**2 - variance / count
