"""Runs one cell on one rank: two optimiser steps, and the same two steps in one process for comparison."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines import models
from benchmarks.engines.cells import BF16, CASES, ENGINES, RANKS, Case, Cell
from benchmarks.engines.engines import KINDS, construction, gathered
from otr_plugin import OTRConfig, attach

STEPS = 2
# Updates are large beside the weights, so that rounding of the weights hides no error of their change. In low precision
# it hides nothing, and large updates would amplify its errors.
RATES = {"float32": 30.0, BF16: 1.0}
# In low precision, a draw at the edge of a bin would fall on the other side. With the model's own loss as the
# objective, rounding is that of the engine without OTR.
SAMPLED, LOW_PRECISION = OTRConfig(samples=16), OTRConfig(objective="sft")


@dataclass
class Outcome:
    """What one rank has after the steps: trained parameters before and after, losses, and averages of metrics."""

    start: dict[str, Tensor]
    end: dict[str, Tensor]
    losses: list[float]
    logged: list[dict[str, float]]


def run(cell: Cell, rank: int) -> dict[str, float]:
    """The cell's largest errors: of the update of parameters, of losses, and of metrics.

    In float32, they are the distance to one process. In low precision, where rounding is large and may send a token to
    another expert, they are the distance to the engine without OTR.
    """
    engine, case = ENGINES[cell.engine], CASES[cell.case]
    got = train(cell, rank)
    if engine.precision == BF16 and not cell.plain:
        want = train(replace(cell, plain=True), rank)
    else:
        want = one_process(case, cell.head, RATES[engine.precision], cell.plain)[rank]
    errors = {"update": _update_error(got.end, want), "loss": _largest(got.losses, want.losses)}
    if engine.precision != BF16 and not cell.plain:
        pairs = zip(got.logged, want.logged, strict=True)
        assert all(one.keys() == other.keys() for one, other in pairs), "the names of the metrics"
        errors["metrics"] = _largest(
            *([v for one in logged for v in one.values()] for logged in (got.logged, want.logged))
        )
    return errors


def train(cell: Cell, rank: int) -> Outcome:
    """Two optimiser steps with the engine."""
    engine, case = ENGINES[cell.engine], CASES[cell.case]
    config = LOW_PRECISION if engine.precision == BF16 else SAMPLED
    with construction(engine.kind, engine.settings):
        model = models.make(case.model, cell.head)
    with gathered(model, engine.settings):
        models.randomise(model)
    start = parameters_at_start(case.model, cell.head)
    if case.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    handle = None
    if not cell.plain and not case.wrapped_first:
        handle = attach(model, config, seed=3)
    wrapped = KINDS[engine.kind](model, engine.settings, case.micro_batches, RATES[engine.precision])
    try:
        if not cell.plain and case.wrapped_first:
            handle = attach(wrapped.module, config, seed=3)
        assert wrapped.is_engine()
        logged: list[dict[str, float]] = []
        losses: list[float] = []
        for step in range(STEPS):
            batches = models.micro_batches(case, step)
            items = models.trained_tokens(batches)
            if handle is not None:
                handle.start_step(step)
            for number, of_ranks in enumerate(batches):
                with wrapped.accumulation_context(last=number == len(batches) - 1):
                    with wrapped.forward_context():
                        loss = wrapped.module(**of_ranks[rank], num_items_in_batch=items).loss
                    losses.append(loss.item())
                    wrapped.backward(loss)
            wrapped.step()
            if handle is not None:
                logged.append(handle.take_metrics())
            if case.evaluates:
                wrapped.module.eval()
                with torch.no_grad(), wrapped.forward_context():
                    loss = wrapped.module(**batches[0][rank]).loss
                losses += [loss.item()] if has_tokens(batches[0][rank]) else []
                wrapped.module.train()
        end = wrapped.parameters_by_name(model)
    finally:
        wrapped.close()
        if handle is not None:
            handle.detach()
    return Outcome(start, end, losses, logged)


def has_tokens(batch: dict[str, Tensor]) -> bool:
    """Without a trained token, the loss of an evaluation is NaN by the model's own loss, and 0 by OTR's."""
    return bool((batch["labels"][:, 1:] != -100).any())


@functools.cache
def parameters_at_start(kind: str, head: str) -> dict[str, Tensor]:
    """The trained parameters of a new model."""
    model = models.make(kind, head)
    models.randomise(model)
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


@functools.cache
def one_process(case: Case, head: str, rate: float, plain: bool) -> list[Outcome]:
    """The same two steps in one process that has the batches of all ranks; for each rank, what it should have."""
    model = models.make(case.model, head)
    models.randomise(model)
    handle = None if plain else attach(model, SAMPLED, seed=3)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=rate)
    losses: list[list[float]] = [[] for _ in range(RANKS)]
    logged = []
    for step in range(STEPS):
        batches = models.micro_batches(case, step)
        items = models.trained_tokens(batches)
        for rank in range(RANKS):
            if handle is not None:
                handle.start_step(step)
                handle.rank = rank
            for of_ranks in batches:
                loss = model(**of_ranks[rank], num_items_in_batch=items).loss
                losses[rank].append(loss.item())
                loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if handle is not None:
            logged.append(_averages(handle))
        if case.evaluates:
            model.eval()
            for rank in range(RANKS):
                with torch.no_grad():
                    loss = model(**batches[0][rank]).loss
                losses[rank] += [loss.item()] if has_tokens(batches[0][rank]) else []
            model.train()
    if handle is not None:
        handle.detach()
    end = {name: parameter.detach() for name, parameter in trained.items()}
    return [Outcome(parameters_at_start(case.model, head), end, of_rank, logged) for of_rank in losses]


def _averages(handle: Any) -> dict[str, float]:
    """Those of this process alone, without the other ranks."""
    from otr_plugin.metrics import average

    sums, handle.sums = handle.sums, {}
    return average(sums)


def _update_error(got: dict[str, Tensor], want: Outcome) -> float:
    """The largest difference of an update, as a share of the largest update of the same parameter."""
    updates = {name: (want.end[name] - start).double() for name, start in want.start.items()}
    floor = 1e-2 * max(update.abs().max().item() for update in updates.values())
    errors = []
    for name, update in updates.items():
        difference = got[name].double() - want.start[name].double() - update
        errors.append(difference.abs().max().item() / max(update.abs().max().item(), floor))
    return max(float("inf") if error != error else error for error in errors)


def _largest(got: list[float], want: list[float]) -> float:
    """The largest difference, relative where the numbers are larger than 1."""
    errors = [abs(one - other) / max(abs(other), 1.0) for one, other in zip(got, want, strict=True)]
    return max(inf if isnan(error) else error for error in errors)
