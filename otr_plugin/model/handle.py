"""A causal language model computes OTR inside its own call, and its logits never exist.

Three places of one model are replaced, on the instance:

    model.forward        notes labels and num_items of the call, and insists that the loss was computed
    lm_head.forward      computes the loss from the hidden states; returns a placeholder one token wide
    model.loss_function  hands the loss to the model, which adds to it (MoE) and returns it as it always does
                         (own_loss.py: a few models have to be given it)

So every trainer that calls `model(..., labels=...)` trains with OTR, and normalisation, mixed precision,
auxiliary losses and wrappers stay the host's. Inside the head's own call the weight is there, also where a
host shards it. What training sees as `loss` has the NLL's value and OTR's gradient.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from otr_plugin.config import OTRConfig
from otr_plugin.loss import otr_loss
from otr_plugin.loss.checks import IGNORE_INDEX
from otr_plugin.metrics import TOKEN_COUNT, average, reduce_over_ranks
from otr_plugin.model.first_step import FirstStep
from otr_plugin.model.inline_loss import OWN_LOSS, author, labels_of, without_labels
from otr_plugin.model.projection import device_of, finish_of, project, refuse_unknown
from otr_plugin.model.replaced_forward import Replaced

HANDLE_ATTRIBUTE = "_otr_handle"


@dataclass
class Call:
    """One forward with labels, on its way from model.forward to the loss."""

    labels: Tensor | None
    shift_labels: Tensor | None
    num_items: Any
    loss: Tensor | None = None
    sums: dict[str, Tensor] = field(default_factory=dict)  # the metrics of these positions alone
    check: FirstStep | None = None
    taken: bool = False


class Handle:
    """An attached model. A host moves `step` on, and takes the metrics when it logs."""

    attached: ClassVar[weakref.WeakSet[Handle]] = weakref.WeakSet()

    def __init__(self, model: Any, config: OTRConfig, seed: int) -> None:
        self.model, self.config, self.seed = model, config, seed
        self.on_detach: list[Callable[[], None]] = []
        Handle.attached.add(self)
        self.evaluation = config.model_copy(update={"objective": "sft", "nll_weight": 0.0})
        self.head, self.author = model.get_output_embeddings(), author(model)
        self.finish = finish_of(model.config)
        refuse_unknown(self.head)
        self.evaluation_needs_logits = False  # a host that needs them (compute_metrics) sets this
        # A host that asks for more than `loss` sets these: what it makes of a model's output, and its own words for it.
        self.transform_output: Callable[[Call, Any], Any] | None = None
        self.extra_arguments: tuple[str, ...] = ()
        self.checked = False
        self.step = self.micro_batch = self.rank = 0
        self.call: Call | None = None
        self.sums: dict[str, Tensor] = {}

        self.own_loss = model.loss_function
        self.loss_was_set = "_loss_function" in model.__dict__
        self.replaced = [Replaced(model, _model_forward), Replaced(self.head, _head_forward)]
        for module in (model, self.head):
            setattr(module, HANDLE_ATTRIBUTE, self)
        model.loss_function = self.at_loss

    def detach(self) -> None:
        """The model is as it was."""
        for replaced in self.replaced:
            replaced.undo()
        if self.loss_was_set:
            self.model.loss_function = self.own_loss
        else:
            del self.model._loss_function
        for module in (self.model, self.head):
            delattr(module, HANDLE_ATTRIBUTE)
        Handle.attached.discard(self)
        for function in self.on_detach:
            function()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        Handle.attached.add(self)

    def require_loss_in_step(self) -> None:
        """Raises if OTR's loss was not computed in this step."""
        if self.micro_batch == 0:
            raise RuntimeError(
                "otr: an optimiser step was taken without OTR's loss: something else computes the loss from the "
                "model's output. Remove the setting that does, or the plugin."
            )

    def describe(self) -> str:
        c = self.config
        what = f"objective {c.objective}"
        if c.objective == "otr":
            how = f"{c.samples} samples" if c.draws else "exact"
            what += f" ({how}, temperature {c.temperature}, beta {c.beta}, baseline {c.baseline})"
        if c.nll_weight:
            what += f" + {c.nll_weight} NLL"
        trained = any(p.requires_grad for p in self.head.parameters())
        return (
            f"OTR is active: {what}, computed inside the {'trained' if trained else 'frozen'} "
            f"{type(self.head).__name__} head of {type(self.model).__name__}"
        )

    def start_step(self, step: int) -> None:
        """Draws from here on belong to this optimiser step."""
        self.step, self.micro_batch = step, 0

    def take_metrics(self) -> dict[str, float]:
        """`otr/...` averages since they were last taken, over all ranks. Waits for the device once."""
        sums, self.sums = self.sums, {}
        return average(reduce_over_ranks(sums)) if sums else {}

    # The three places, in the order in which a call meets them.

    def at_model(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs = {name: value for name, value in kwargs.items() if name not in self.extra_arguments}
        given = self.bind(args, kwargs)
        labels, shift_labels = labels_of(self.author, given), given.get("shift_labels")
        nothing_to_do = labels is None and shift_labels is None
        if nothing_to_do or self.call is not None or (self.evaluation_needs_logits and not self.model.training):
            return forward(*args, **kwargs)
        if self.model.get_output_embeddings() is not self.head:
            raise RuntimeError(
                f"otr: {type(self.model).__name__} has another output head than when attach() was called: PEFT puts "
                "one there for `lm_head` in target_modules or modules_to_save. Call attach() after that."
            )
        call = self.call = Call(labels, shift_labels, given.get("num_items_in_batch"))
        try:
            if self.author in OWN_LOSS:
                output = without_labels(forward, given, self.at_loss)
            else:
                output = forward(*args, **kwargs)
        except Exception as error:
            if call.loss is None or call.taken:
                raise
            raise RuntimeError(
                f"otr: {type(self.model).__name__} failed between its output head, which OTR replaces, and its "
                f"loss_function, which it did not reach: {error}. Most likely it computes its loss by itself, and OTR "
                "cannot put its own in place. It cannot be trained with OTR."
            ) from error
        finally:
            self.call = None
        if not call.taken:
            missed = "its output head" if call.loss is None else "its loss_function"
            raise RuntimeError(
                f"otr: {type(self.model).__name__} was called with labels, but its forward went past {missed}: "
                "something else computes the loss, and OTR would not be trained. Usual causes are a fused cross "
                "entropy (Liger's fused_linear_cross_entropy, Cut Cross Entropy, Unsloth): switch it off; and a model "
                "that an SFTTrainer of TRL's had before attach(): attach first."
            )
        return output if self.transform_output is None else self.transform_output(call, output)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not args:
            return kwargs
        names = inspect.signature(type(self.model).forward).parameters
        return dict(zip(list(names)[1:], args, strict=False)) | kwargs

    def at_head(self, forward: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        call = self.call
        if call is None or call.loss is not None:
            return forward(hidden)
        labels = _shifted(call, hidden)
        device = device_of(self.head)
        flat = labels.reshape(-1).to(device)
        projection = project(self.head, hidden.reshape(-1, hidden.shape[-1]).to(device))
        training = self.model.training
        config = self.config if training else self.evaluation
        uniforms = self.uniforms(len(flat), device) if config.draws else None
        items = _at_least_one(call.num_items)
        out = otr_loss(
            projection.hidden,
            projection.weight,
            flat,
            config,
            bias=projection.bias,
            num_items=items,
            uniforms=uniforms,
            **self.finish._asdict(),
        )
        items = out.metrics[TOKEN_COUNT].clamp(min=1) if items is None else items
        # The value people compare is the NLL's; the gradient is the objective's.
        call.loss, call.sums = out.metrics["nll"] / items + (out.loss - out.loss.detach()), out.metrics
        if training:
            self.micro_batch += 1
            for name, value in out.metrics.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            if not self.checked:
                call.check = FirstStep.begin(self, forward, hidden, labels)
                if call.check is not None:
                    self.checked = True
                    return call.check.own_logits
        return hidden[..., :1]

    def at_loss(self, *args: Any, **kwargs: Any) -> Tensor:
        call = self.call
        if call is None or call.loss is None:
            if self.model.training or call is not None:
                raise RuntimeError(
                    f"otr: {type(self.model).__name__} asks for its loss, but OTR did not see the "
                    f"{'head' if call is not None else 'forward'} that led to it: something replaced it after "
                    "attach(), or the model was pickled. Call attach() last, or switch off what replaced it."
                )
            whole: Tensor = self.own_loss(*args, **kwargs)
            return whole
        call.taken = True
        if call.check is not None:
            logits = args[0] if args else kwargs["logits"]
            call.check.compare(logits)
        return call.loss.clone()  # models of experts add to it in place

    def uniforms(self, positions: int, device: torch.device) -> Tensor:
        key = f"{self.seed}/{self.step}/{self.micro_batch}/{self.rank}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
        generator = torch.Generator(device).manual_seed(seed)
        return torch.rand(positions, self.config.samples, device=device, generator=generator)


def _at_least_one(num_items: Any) -> Any:
    """A global batch without a trained token has loss 0, not 0 / 0."""
    if isinstance(num_items, Tensor):
        return num_items.clamp(min=1)
    return num_items if num_items is None else max(num_items, 1)


def _shifted(call: Call, hidden: Tensor) -> Tensor:
    """Each position's label is the next position's token, as transformers' own loss has it."""
    labels = call.shift_labels
    if labels is None:
        assert call.labels is not None
        labels = nn.functional.pad(call.labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
    if labels.numel() != hidden[..., 0].numel():
        raise RuntimeError(
            f"otr: the head was given hidden states of shape {list(hidden.shape)} for labels of shape "
            f"{list(labels.shape)}. Expected one for each label; where logits_to_keep leaves positions out, "
            "leave out their labels."
        )
    return labels


def _model_forward(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, HANDLE_ATTRIBUTE).at_model(functools.partial(own, self), args, kwargs)

    return forward


def _head_forward(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        rest = functools.partial(own, self)
        return getattr(self, HANDLE_ATTRIBUTE).at_head(lambda h: rest(h, *args, **kwargs), hidden)

    return forward
