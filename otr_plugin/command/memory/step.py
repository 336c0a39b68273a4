"""One training step of a plan, forward, backward and update, and the count of its memory on tensors without values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch

from otr_plugin.command.memory import kernels, model
from otr_plugin.command.memory.card import Card, CardOnPaper, workspace, workspace_on_cpu
from otr_plugin.command.memory.ledger import (
    ACTIVATIONS,
    ADAPTERS,
    BACKWARD,
    FORWARD,
    GRADIENTS,
    LOGITS,
    OPTIMISER,
    UPDATE,
    WEIGHTS,
    Ledger,
    Record,
)
from otr_plugin.command.memory.optimisers import OPTIMISERS
from otr_plugin.command.memory.plan import TrainingPlan
from otr_plugin.loss.device import Device
from otr_plugin.loss.torch_kernel import padded

MAX_NORM = 1.0  # of the gradients, which every host clips


class Step:
    """A step with a model from model.complete, on a batch as large as the plan permits, of which all is trained."""

    def __init__(self, whole: Any, plan: TrainingPlan) -> None:
        self.model, self.plan = whole, plan
        self.trained = [parameter for parameter in whole.parameters() if parameter.requires_grad]
        self.device = self.trained[0].device.type
        self.optimiser = OPTIMISERS[plan.optimiser](self.trained)

    def run(self) -> None:
        """The second step: the optimiser's state exists, and the gradients do from the second micro-batch on."""
        self.make_state()
        if self.plan.accumulation > 1:
            self.make_gradients()
        self.loss(self.batch()).backward()
        self.update()

    def make_state(self) -> None:
        """The optimiser's state, which its first step makes."""
        self.make_gradients()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def make_gradients(self) -> None:
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)

    def batch(self) -> dict[str, Any]:
        shape = self.plan.rows, self.plan.sequence
        ids = torch.ones(shape, dtype=torch.long)
        positions = torch.arange(self.plan.sequence).expand(shape)
        count = torch.tensor(self.plan.rows * (self.plan.sequence - 1))
        batch = {"input_ids": ids, "labels": ids, "position_ids": positions, "num_items_in_batch": count}
        return batch | {"use_cache": False}

    def loss(self, batch: dict[str, Any]) -> Any:
        """As transformers' Trainer computes it: under autocast, with the output converted to float32."""
        from accelerate.utils.operations import convert_to_fp32

        if self.plan.autocast is None:
            return self.model(**batch).loss
        with torch.autocast(self.device, dtype=getattr(torch, self.plan.autocast)):
            output = self.model(**batch)
        return convert_to_fp32(output).loss

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.trained, MAX_NORM)
        self.optimiser.step()
        self.optimiser.zero_grad()


def run(
    config: Any,
    plan: TrainingPlan,
    card: Card | None,
    *,
    on_real_tensors: bool = False,
    count_layer: Callable[[], None] = lambda: None,
) -> Record:
    """Count the memory of a step of the plan. `config` is transformers' config of the model.

    With a card, the loss plans its chunks and selects its kernel as on that card; without one, as on this CPU.
    `on_real_tensors` is for the comparison of the two. `count_layer` is called for every layer that has run.
    """
    parts = _Parts()
    counted = Ledger(parts.part_of, workspace_on_cpu if card is None else workspace)
    whole = model.on_meta(config, plan)
    for layer in model.layers(whole):
        layer.register_forward_pre_hook(lambda *_: count_layer())
    with ExitStack() as stack:
        stack.callback(model.release, whole)
        stack.enter_context(kernels.as_on_a_gpu())
        if not on_real_tensors:
            stack.enter_context(_fake_tensors(counted, card))
        stack.enter_context(counted)
        model.complete(whole, plan)
        return _record(Step(whole, plan), counted, parts, card)


def _record(step: Step, counted: Ledger, parts: _Parts, card: Card | None) -> Record:
    """Step.run, with the parts and phases named to the ledger."""
    counted.move_all(WEIGHTS, of=ACTIVATIONS)
    for name, parameter in step.model.named_parameters():
        if model.is_of_adapter(name):
            counted.move(parameter, ADAPTERS)
    parts.read(step)
    for parameter in step.trained:
        parameter.register_post_accumulate_grad_hook(lambda one: counted.move(one.grad, GRADIENTS))
    cublas = None if card is None else torch.zeros(card.cublas, dtype=torch.uint8)
    with counted.during(UPDATE):
        step.make_state()
    if step.plan.accumulation > 1:
        step.make_gradients()
        for parameter in step.trained:
            counted.move(parameter.grad, GRADIENTS)
    batch = step.batch()
    record = counted.start()
    with counted.during(FORWARD):
        loss = step.loss(batch)
    with counted.during(BACKWARD):
        loss.backward()
    del loss
    with counted.during(UPDATE):
        step.update()
    del cublas
    return record


@contextlib.contextmanager
def _fake_tensors(counted: Ledger, card: Card | None) -> Iterator[None]:
    """All tensors that the block makes are fake: they have a size, and no memory."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from otr_plugin.command.memory.known import KnownValues

    on_cpu = Device(torch.device("cpu"))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        on_cpu.sums_in_float32(dtype)  # tried on real tensors, and kept
    fake_mode: Any = FakeTensorMode(allow_non_fake_inputs=True)
    fake_mode.stands_for = on_cpu if card is None else CardOnPaper(card, lambda: counted.total)
    with fake_mode, KnownValues(fake_mode):
        yield


class _Parts:
    """Which part of the memory a new storage is."""

    def __init__(self) -> None:
        self.vocabulary: set[int] = set()  # the numbers of columns that only logits have
        self.head: torch.Size | None = None

    def read(self, step: Step) -> None:
        shape = model.head_shape(step.model)
        self.vocabulary = {shape[0], padded(shape[0])}
        # In forward and backward, a new tensor of the head's shape is the gradient of a head that is trained.
        self.head = shape if any(parameter.shape == shape for parameter in step.trained) else None

    def part_of(self, tensor: torch.Tensor, phase: str) -> str:
        if phase == UPDATE:
            return OPTIMISER
        if tensor.dim() > 1 and tensor.shape[-1] in self.vocabulary:
            return LOGITS
        return GRADIENTS if tensor.shape == self.head else ACTIVATIONS
