"""One run of the study: a base model is fine-tuned through `attach`, and asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from benchmarks.learning import base
from benchmarks.learning.evaluate import accuracy, confidence, noise_of, pass_at
from benchmarks.learning.plan import EQUAL, MAIN, METHODS, SIZES, Run, Size
from benchmarks.learning.regimes import REGIMES, Regime, in_turn, old_skills
from benchmarks.learning.skills import IGNORED, batch_of
from benchmarks.string_skills import Example
from otr_plugin import OTRConfig, attach

WARM_UP = 0.1  # of the steps
NOISE_BATCHES, NOISE_DRAWS, NOISE_SAME = 24, 12, 4
DRAWN = (1, 16, 256, 4096)


def measured(run: Run, folder: Path) -> dict[str, Any]:
    """The run's figures."""
    size = SIZES[run.size]
    model, regime = base.load(folder), REGIMES[run.regime]
    if run.kind == "noise":
        return noise(model, regime, size, run.seed)
    if run.kind == "before":
        return answers(model, regime, size, seed=0)
    pairs = regime.train(run.seed, size.more)
    config = OTRConfig(**METHODS[run.method])
    if run.kind == "search":
        log = train(model, pairs, config, run.rate, size, run.seed)
        return {
            "validation": accuracy(model, regime.validation(size.asked)),
            "old": accuracy(model, old_skills(size.asked // 2)),
            "update": log["update"],
        }
    steps = None
    if run.method == EQUAL:
        steps = train(base.load(folder), pairs, OTRConfig(), run.rate, size, run.seed)["updates"]
    few = regime.validation(size.asked // 2)
    log = train(model, pairs, config, run.rate, size, run.seed, lengths=steps, look=lambda: accuracy(model, few))
    figures = {"validation": accuracy(model, regime.validation(size.asked))} | answers(model, regime, size, run.seed)
    if steps is not None:
        figures["off"] = max(abs(a / b - 1) for a, b in zip(log["updates"], steps, strict=True))
    return figures | {key: value for key, value in log.items() if key != "updates"}


def answers(model: Any, regime: Regime, size: Size, seed: int) -> dict[str, Any]:
    near, far = regime.test(size.asked), regime.far_test(size.asked)
    return {
        "near": accuracy(model, near),
        "far": accuracy(model, far),
        "old": accuracy(model, old_skills(size.asked)),
        "pass": pass_at(model, near[: size.sampled], size.answers, seed),
        "far pass": pass_at(model, far[: size.sampled], size.answers, seed),
    } | confidence(model, near)


def train(
    model: Any,
    pairs: list[Example],
    config: OTRConfig,
    rate: float,
    size: Size,
    seed: int,
    *,
    lengths: list[float] | None = None,
    look: Callable[[], float] | None = None,
) -> dict[str, Any]:
    """AdamW with warm-up and a cosine. With `lengths`, every step is rescaled to go just as far."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, size.steps))
    handle = attach(model, config, seed=seed)
    updates, course, seconds, tokens = [], [], 0.0, 0
    metrics: dict[str, dict[str, float]] = {}
    for step, some in enumerate(islice(batches(pairs, size.batch, seed), size.steps)):
        start = clock(model.device)
        model.train()
        batch = batch_of(some, model.device)
        handle.start_step(step)
        model(**batch).loss.backward()
        clip_grad_norm_(parameters, 1.0)
        before = parameters_to_vector(parameters).detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        moved = parameters_to_vector(parameters).detach() - before
        if lengths is not None:
            moved *= lengths[step] / moved.norm().clamp(min=1e-30)
            vector_to_parameters(before + moved, parameters)
            moved = parameters_to_vector(parameters).detach() - before
        updates.append(moved.norm())
        tokens += int((batch["labels"] != IGNORED).sum())
        seconds += clock(model.device) - start
        if step == 0:
            metrics["first"] = handle.take_metrics()
        if look is not None and (step + 1) % max(1, size.steps // size.looks) == 0:
            course.append([step + 1, tokens, round(seconds, 3), look()])
    metrics["last"] = handle.take_metrics()
    handle.detach()
    lengths_gone = [update.item() for update in updates]
    return {
        "course": course,
        "updates": lengths_gone,
        "update": sum(lengths_gone) / len(lengths_gone),
        "seconds": seconds,
        "tokens": tokens,
        "metrics": {when: {k.removeprefix("otr/"): v for k, v in some.items()} for when, some in metrics.items()},
    }


def batches(pairs: list[Example], size: int, seed: int) -> Iterator[list[Example]]:
    turn = in_turn(pairs, seed)
    while True:
        yield list(islice(turn, size))


def _share(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def clock(device: torch.device) -> float:
    """On a CPU the process's own time: what else the machine does is no part of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def noise(model: Any, regime: Regime, size: Size, seed: int) -> dict[str, Any]:
    """How much gradients differ from batch to batch, and from draw to draw, as a share of their mean's square."""
    some = list(islice(batches(regime.train(seed, size.more), size.batch, seed), NOISE_BATCHES))
    found: dict[str, Any] = {}
    methods: dict[str, dict[str, Any]] = {name: MAIN[name] for name in ("SFT", "DFT", "OTR exact")}
    for name, settings in (methods | {f"K={k}": {"samples": k} for k in DRAWN}).items():
        config = OTRConfig(**settings)
        found[name] = {"batches": _ratio(*noise_of(gradients(model, some, config, seed)))}
        if config.draws:
            each = [noise_of(gradients(model, [batch] * NOISE_DRAWS, config, seed)) for batch in some[:NOISE_SAME]]
            found[name]["draws"] = _ratio(sum(v for v, _ in each), sum(m for _, m in each))
    return found


def _ratio(variance: float, square: float) -> float | None:
    """None where the noise is so large that the mean cannot be told from nothing."""
    return variance / square if square > 0 else None


def gradients(model: Any, some: list[list[Example]], config: OTRConfig, seed: int) -> Iterator[torch.Tensor]:
    handle = attach(model.train(), config, seed=seed)
    for step, pairs in enumerate(some):
        handle.start_step(step)
        model.zero_grad()
        model(**batch_of(pairs, model.device)).loss.backward()
        yield parameters_to_vector([p.grad for p in model.parameters() if p.grad is not None])
    handle.detach()
    model.zero_grad()
