"""Runs one cell on one rank: two optimiser steps, and the same two steps in one process for comparison."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.engines import models
from benchmarks.engines.cells import BF16, CASES, ENGINES, Case, Cell
from benchmarks.engines.engines import KINDS, construction, gathered
from otr_plugin import OTRConfig, attach

STEPS = 2
# Updates are large beside the weights, so that rounding of the weights hides no error of their change. In low precision
# it hides nothing, and large updates would amplify its errors.
RATES = {"float32": 30.0, BF16: 1.0}
# In low precision, a draw at the edge of a bin would fall on the other side. With the model's own loss as the objective,
# rounding is that of the engine without OTR.
SAMPLED, LOW_PRECISION = OTRConfig(samples=16), OTRConfig(objective="sft")


def run(cell: Cell, rank: int) -> dict[str, Any]:
    """The errors of the cell, relative to one process: of the update of parameters, of losses, and of metrics."""
    engine, case = ENGINES[cell.engine], CASES[cell.case]
    config = LOW_PRECISION if engine.precision == BF16 else SAMPLED
    with construction(engine.kind, engine.settings):
        model = models.make(case.model, cell.head)
    with gathered(model, engine.settings):
        models.randomise(model)
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
                    losses.append(wrapped.module(**batches[0][rank]).loss.item())
                wrapped.module.train()
        got = wrapped.parameters_by_name(model)
    finally:
        wrapped.close()
        if handle is not None:
            handle.detach()
    start, want, want_losses, want_logged = reference(case, cell.head, config, RATES[engine.precision], cell.plain)
    errors = {"update": _update_error(start, got, want), "loss": _largest(losses, want_losses[rank])}
    if handle is not None:
        errors["metrics"] = max(
            _largest(list(_compared(one, config)), list(_compared(other, config)))
            for one, other in zip(logged, want_logged, strict=True)
        )
    return errors


Reference = tuple[dict[str, Tensor], dict[str, Tensor], list[list[float]], list[dict[str, float]]]


@functools.cache
def reference(case: Case, head: str, config: OTRConfig, rate: float, plain: bool) -> Reference:
    """(parameters before, after, losses by rank, metrics) of one process that has the batches of all ranks."""
    model = models.make(case.model, head)
    models.randomise(model)
    handle = None if plain else attach(model, config, seed=3)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    start = {name: parameter.detach().clone() for name, parameter in trained.items()}
    optimizer = torch.optim.SGD(trained.values(), lr=rate)
    losses: list[list[float]] = [[] for _ in range(models.RANKS)]
    logged = []
    for step in range(STEPS):
        batches = models.micro_batches(case, step)
        items = models.trained_tokens(batches)
        for rank in range(models.RANKS):
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
            for rank in range(models.RANKS):
                with torch.no_grad():
                    losses[rank].append(model(**batches[0][rank]).loss.item())
            model.train()
    if handle is not None:
        handle.detach()
    return start, {name: parameter.detach().clone() for name, parameter in trained.items()}, losses, logged


def _averages(handle: Any) -> dict[str, float]:
    """Those of this process alone, without the other ranks."""
    from otr_plugin.metrics import average

    sums, handle.sums = handle.sums, {}
    return average(sums)


def _compared(averages: dict[str, float], config: OTRConfig) -> Iterator[float]:
    """The averages in their order. In low precision, rounding decides which of two like logits is the largest."""
    return (value for name, value in averages.items() if config is SAMPLED or name != "otr/accuracy")


def _update_error(start: dict[str, Tensor], got: dict[str, Tensor], want: dict[str, Tensor]) -> float:
    """The largest difference of an update, as a share of the largest update of the same parameter."""
    updates = {name: (want[name] - start[name]).double() for name in want}
    floor = 1e-2 * max(update.abs().max().item() for update in updates.values())
    errors = [
        ((got[name].double() - start[name].double() - update).abs().max() / max(update.abs().max().item(), floor)).item()
        for name, update in updates.items()
    ]
    return max(float("inf") if error != error else error for error in errors)


def _largest(got: list[float], want: list[float]) -> float:
    if len(got) != len(want):
        return float("inf")
    differences = [0.0 if one != one and other != other else abs(one - other) / max(abs(other), 1.0) for one, other in zip(got, want, strict=True)]
    return max(float("inf") if difference != difference else difference for difference in differences)
