"""One run of the study: fine-tunes a base model with an attached loss and evaluates it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from benchmarks.learning import base_model
from benchmarks.learning.evaluation import pass_at_k, share_correct, token_statistics, variance_and_squared_mean
from benchmarks.learning.plan import MAIN_METHODS, METHODS, SIZES, STEP_MATCHED_SFT, VARIANTS, Run, Size
from benchmarks.learning.regimes import REGIMES, Regime, epochs_of, old_skill_questions
from benchmarks.learning.vocabulary import collate
from benchmarks.string_skills import Example
from otr_plugin import OTRConfig, attach
from otr_plugin.loss.checks import IGNORE_INDEX

WARM_UP = 0.1  # share of the steps
NOISE_BATCHES = 24  # batches from which the noise between batches is estimated
NOISE_REPEATS, NOISE_REPEATED_BATCHES = 12, 4  # repeats of the same batch, for the noise of OTR's draws alone
NOISE_SAMPLES = sorted({OTRConfig(**settings).samples for settings in VARIANTS.values()})  # includes the default K


def execute(run: Run, folder: Path) -> dict[str, Any]:
    """Runs with the base model in `folder` and returns the run's figures."""
    size = SIZES[run.size]
    model, regime = base_model.load(folder), REGIMES[run.regime]
    if run.kind == "noise":
        return noise_figures(model, regime, size, run.seed)
    if run.kind == "before":
        return test_figures(model, regime, size, seed=0)
    examples = regime.training_examples(run.seed, size.data_multiplier)
    config = OTRConfig(**METHODS[run.method])
    if run.kind == "search":
        log = train(model, examples, config, run.rate, size, run.seed)
        return {
            "validation": share_correct(model, regime.validation(size.questions)),
            "old": share_correct(model, old_skill_questions(size.questions // 2)),
            "update": log["update"],
        }
    step_lengths = None
    if run.method == STEP_MATCHED_SFT:
        otr_log = train(base_model.load(folder), examples, OTRConfig(), run.rate, size, run.seed)
        step_lengths = otr_log["updates"]
    half = regime.validation(size.questions // 2)
    log = train(
        model,
        examples,
        config,
        run.rate,
        size,
        run.seed,
        step_lengths=step_lengths,
        validate=lambda: share_correct(model, half),
    )
    figures = {"validation": share_correct(model, regime.validation(size.questions))}
    figures |= test_figures(model, regime, size, run.seed)
    if step_lengths is not None:
        figures["off"] = max(abs(a / b - 1) for a, b in zip(log["updates"], step_lengths, strict=True))
    return figures | {key: value for key, value in log.items() if key != "updates"}


def test_figures(model: Any, regime: Regime, size: Size, seed: int) -> dict[str, Any]:
    """Figures on the test questions, under the keys of the results file."""
    test, shifted = regime.test(size.questions), regime.shifted_test(size.questions)
    return {
        "near": share_correct(model, test),
        "far": share_correct(model, shifted),
        "old": share_correct(model, old_skill_questions(size.questions)),
        "pass": pass_at_k(model, test[: size.sampled_questions], size.samples_per_question, seed),
        "far pass": pass_at_k(model, shifted[: size.sampled_questions], size.samples_per_question, seed),
    } | token_statistics(model, test)


def train(
    model: Any,
    examples: list[Example],
    config: OTRConfig,
    rate: float,
    size: Size,
    seed: int,
    *,
    step_lengths: list[float] | None = None,
    validate: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """Trains with AdamW, warm-up and a cosine schedule, and returns what was logged.

    With `step_lengths`, every update is rescaled to the given length. With `validate`, its result is logged
    size.evaluations times.
    """
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, size.steps))
    handle = attach(model, config, seed=seed)
    updates, course, seconds, tokens = [], [], 0.0, 0
    metrics: dict[str, dict[str, float]] = {}
    for step, batch_examples in enumerate(islice(batches(examples, size.batch, seed), size.steps)):
        start = clock(model.device)
        model.train()
        batch = collate(batch_examples, model.device)
        handle.start_step(step)
        model(**batch).loss.backward()
        clip_grad_norm_(parameters, 1.0)
        before = parameters_to_vector(parameters).detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        update = parameters_to_vector(parameters).detach() - before
        if step_lengths is not None:
            update *= step_lengths[step] / update.norm().clamp(min=1e-30)
            vector_to_parameters(before + update, parameters)
            update = parameters_to_vector(parameters).detach() - before  # with the rounding of the addition
        updates.append(update.norm())
        tokens += int((batch["labels"] != IGNORE_INDEX).sum())
        seconds += clock(model.device) - start
        if step == 0:
            metrics["first"] = handle.take_metrics()
        if validate is not None and (step + 1) % max(1, size.steps // size.evaluations) == 0:
            course.append([step + 1, tokens, round(seconds, 3), validate()])
    metrics["last"] = handle.take_metrics()
    handle.detach()
    update_lengths = [update.item() for update in updates]
    return {
        "course": course,
        "updates": update_lengths,
        "update": sum(update_lengths) / len(update_lengths),
        "seconds": seconds,
        "tokens": tokens,
        "metrics": {when: {k.removeprefix("otr/"): v for k, v in some.items()} for when, some in metrics.items()},
    }


def batches(examples: list[Example], size: int, seed: int) -> Iterator[list[Example]]:
    stream = epochs_of(examples, seed)
    while True:
        yield list(islice(stream, size))


def rate_factor(step: int, steps: int) -> float:
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def clock(device: torch.device) -> float:
    """Seconds. On a CPU it is the process's own time, which other work on the machine does not lengthen."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def noise_figures(model: Any, regime: Regime, size: Size, seed: int) -> dict[str, Any]:
    """The variance of the gradient divided by its squared mean, over batches and over OTR's draws alone, by method."""
    stream = batches(regime.training_examples(seed, size.data_multiplier), size.batch, seed)
    noise_batches = list(islice(stream, NOISE_BATCHES))
    figures: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {name: MAIN_METHODS[name] for name in ("SFT", "DFT", "OTR exact")}
    for name, settings in (methods | {f"K={k}": {"samples": k} for k in NOISE_SAMPLES}).items():
        config = OTRConfig(**settings)
        over_batches = variance_and_squared_mean(gradients(model, noise_batches, config, seed))
        figures[name] = {"batches": _ratio(*over_batches)}
        if config.draws:
            over_draws = [
                variance_and_squared_mean(gradients(model, [batch] * NOISE_REPEATS, config, seed))
                for batch in noise_batches[:NOISE_REPEATED_BATCHES]
            ]
            figures[name]["draws"] = _ratio(sum(v for v, _ in over_draws), sum(m for _, m in over_draws))
    return figures


def _ratio(variance: float, squared_mean: float) -> float | None:
    """None if the noise is so large that the unbiased estimate of the squared mean is not positive."""
    return variance / squared_mean if squared_mean > 0 else None


def gradients(model: Any, some: list[list[Example]], config: OTRConfig, seed: int) -> Iterator[torch.Tensor]:
    """The gradient of every batch at the model's present weights."""
    handle = attach(model.train(), config, seed=seed)
    for step, examples in enumerate(some):
        handle.start_step(step)
        model.zero_grad()
        model(**collate(examples, model.device)).loss.backward()
        yield parameters_to_vector([p.grad for p in model.parameters() if p.grad is not None])
    handle.detach()
    model.zero_grad()
