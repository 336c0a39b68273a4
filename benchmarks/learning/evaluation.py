"""Figures of a trained model: correct answers, pass@k, token statistics and gradient noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.learning.regimes import is_correct
from benchmarks.learning.vocabulary import END, PAD, collate, decode, encode
from benchmarks.string_skills import Example
from otr_plugin.loss.checks import IGNORE_INDEX

GENERATION_BATCH = 512  # answers that are generated at one time
CALIBRATION_BINS = 10


@torch.no_grad()
def generate_answers(
    model: Any, questions: list[Example], samples: int = 1, seed: int | None = None
) -> list[list[str]]:
    """For every question its greedy answer, or with a seed `samples` answers sampled at temperature 1."""
    model.eval()
    sampling: dict[str, Any] = {"do_sample": False}
    if seed is not None:
        sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    answers: list[list[str]] = []
    longest = max(len(answer) for _, answer in questions) + 2
    questions_at_a_time = max(1, GENERATION_BATCH // samples)
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(questions), questions_at_a_time):
            prompts = [encode(question) for question, _ in questions[start : start + questions_at_a_time]]
            width = max(map(len, prompts))
            ids = torch.tensor([[PAD] * (width - len(row)) + row for row in prompts], device=model.device)
            out = model.generate(
                input_ids=ids,
                attention_mask=(ids != PAD).long(),
                max_new_tokens=longest,
                num_return_sequences=samples,
                pad_token_id=PAD,
                eos_token_id=END,
                **sampling,
            )
            decoded = [decode(row) for row in out[:, width:].tolist()]
            answers += [decoded[i : i + samples] for i in range(0, len(decoded), samples)]
    return answers


def share_correct(model: Any, questions: list[Example]) -> float:
    """The share of questions whose greedy answer is correct, including its end token."""
    answers = generate_answers(model, questions)
    correct = sum(is_correct(q, expected, first) for (q, expected), (first,) in zip(questions, answers, strict=True))
    return correct / len(questions)


def pass_at_k(model: Any, questions: list[Example], samples: int, seed: int) -> dict[str, float]:
    """pass@k by k, for the powers of 4 up to `samples`."""
    answers = generate_answers(model, questions, samples, seed)
    correct = [
        sum(is_correct(question, expected, answer) for answer in sampled)
        for (question, expected), sampled in zip(questions, answers, strict=True)
    ]
    ks = [4**i for i in range(10) if 4**i <= samples]
    return {str(k): sum(pass_at_k_estimate(samples, count, k) for count in correct) / len(correct) for k in ks}


def pass_at_k_estimate(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of the probability that at least one of k samples is correct: 1 - C(n - c, k) / C(n, k)."""
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


@torch.no_grad()
def token_statistics(model: Any, questions: list[Example]) -> dict[str, float]:
    """NLL, entropy and expected calibration error over the tokens of the correct answers."""
    model.eval()
    batch = collate(questions, model.device)
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    logits, labels = logits[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
    logp = logits.log_softmax(-1)
    confidence, prediction = logp.exp().max(-1)
    return {
        "nll": -logp.gather(1, labels[:, None]).mean().item(),
        "entropy": -(logp.exp() * logp).sum(-1).mean().item(),
        "ece": calibration_error(confidence, prediction == labels),
    }


def calibration_error(confidence: Tensor, correct: Tensor) -> float:
    """Expected calibration error: the mean distance between confidence and accuracy in ten bins of confidence."""
    bins = (confidence * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    error = 0.0
    for i in range(CALIBRATION_BINS):
        inside = bins == i
        if inside.any():
            error += (confidence[inside].sum() - correct[inside].sum()).abs().item()
    return error / len(confidence)


def variance_and_squared_mean(gradients: Iterable[Tensor]) -> tuple[float, float]:
    """Unbiased estimates of the gradients' total variance and of the squared norm of their mean.

    Only one gradient is in memory at a time.
    """
    count, squares, total = 0, 0.0, torch.zeros(())
    for gradient in gradients:
        count += 1
        total = total + gradient.double()
        squares += gradient.double().square().sum().item()
    squared_sum = total.square().sum().item()
    variance = (squares - squared_sum / count) / (count - 1)
    return variance, squared_sum / count**2 - variance / count
