"""One run of the second edition: fine-tunes a base model with one method, and tests it question by question."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.learning import base_model
from benchmarks.learning.evaluation import generate_answers
from benchmarks.learning.regimes import is_correct, old_skill_questions
from benchmarks.learning.second import design
from benchmarks.learning.second.design import SMOOTHING, Trial
from benchmarks.learning.second.tasks import REGIMES, TASKS, Task
from benchmarks.learning.train import batches, rate_factor
from benchmarks.learning.vocabulary import collate
from benchmarks.string_skills import Example
from otr_plugin import OTRConfig, attach
from otr_plugin.loss.checks import IGNORE_INDEX

BETAS, LARGEST_NORM = (0.9, 0.98), 1.0
MEASURES = ("near", "far", "old")


def execute(trial: Trial, rate: float, bases: Path) -> dict[str, Any]:
    """The figures of a run at the learning rate. A search trains, and validates at its end."""
    regime = REGIMES[trial.regime]
    task = TASKS[regime.task]
    model = base_model.load(bases / trial.base)
    validation = task.questions("validation", design.QUESTIONS)
    examples = task.training_examples(trial.seed, regime.noise, regime.share)
    if trial.kind == "search":
        train(model, examples, trial, rate)
        return {"validation": share(correct(model, validation))}
    course, best = train(model, examples, trial, rate, validation[: design.QUESTIONS_OF_A_LOOK])
    end = {name: hexadecimal(answers) for name, answers in tested(model, task).items()}
    figures: dict[str, Any] = {"rate": rate, "course": course, "end": end}
    step, weights = best
    if step < design.STEPS:
        model.load_state_dict(weights)
        figures["best"] = {"step": step} | {name: share(answers) for name, answers in tested(model, task).items()}
    return figures


def train(
    model: Any, examples: list[Example], trial: Trial, rate: float, validation: list[Example] | None = None
) -> tuple[list[float], tuple[int, dict[str, torch.Tensor]]]:
    """Trains, and returns the validation accuracy of each look, and the step and the weights of the first best one."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=BETAS, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, design.STEPS))
    handle = None
    if trial.method != SMOOTHING:
        handle = attach(model, OTRConfig(**design.METHODS[trial.method]), seed=trial.seed)
    course: list[float] = []
    best: tuple[int, dict[str, torch.Tensor]] = (design.STEPS, {})
    for step, some in enumerate(islice(batches(examples, design.BATCH, trial.seed), design.STEPS), 1):
        model.train()
        batch = collate(some, model.device)
        if handle is None:
            smoothed(model, batch).backward()
        else:
            handle.start_step(step - 1)
            model(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_NORM)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if validation is not None and step % (design.STEPS // design.LOOKS) == 0:
            accuracy = share(correct(model, validation))
            if accuracy > max(course, default=-1.0):
                best = step, {name: tensor.clone() for name, tensor in model.state_dict().items()}
            course.append(accuracy)
    if handle is not None:
        handle.detach()
    return course, best


def smoothed(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Cross entropy with label smoothing, the mean over the trained tokens."""
    logits, labels = model(input_ids=batch["input_ids"]).logits[:, :-1], batch["labels"][:, 1:]
    return F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, label_smoothing=design.LABEL_SMOOTHING
    )


def tested(model: Any, task: Task) -> dict[str, list[bool]]:
    """By measure, which questions were answered right."""
    questions = (
        task.questions("test", design.QUESTIONS),
        task.questions("test", design.QUESTIONS, shifted=True),
        old_skill_questions(design.QUESTIONS),
    )
    return {name: correct(model, some) for name, some in zip(MEASURES, questions, strict=True)}


def correct(model: Any, questions: list[Example]) -> list[bool]:
    """Whether the greedy answer to each question is right, with its end token."""
    answers = generate_answers(model, questions)
    return [is_correct(q, expected, first) for (q, expected), (first,) in zip(questions, answers, strict=True)]


def share(answers: list[bool]) -> float:
    return sum(answers) / len(answers)


def hexadecimal(answers: list[bool]) -> str:
    """Four answers a digit, the first one highest; the number of answers comes first."""
    return f"{len(answers)}:{int(''.join('01'[each] for each in answers), 2):x}"


def answers_of(text: str) -> list[bool]:
    count, _, digits = text.partition(":")
    return [each == "1" for each in f"{int(digits, 16):0{int(count)}b}"]
