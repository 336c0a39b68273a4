"""Handle: makes one causal language model compute OTR inside its own forward, so that its logits never exist.

Three functions of the model instance are replaced. A forward with labels reaches them in this order:

    model.forward        Handle.model_forward  keeps the labels for the head; raises if OTR's loss was not computed;
                                               takes the placeholder out of the output (no_logits.py)
    lm_head.forward      Handle.head_forward   computes the loss from the hidden states; returns a placeholder of
                                               width 1 in place of the logits
    model.loss_function  Handle.loss_function  returns that loss to the model, which adds its auxiliary losses
                                               (mixture of experts) and puts it into its output

Some models never call loss_function; inline_loss.py puts the loss into their output.

Every trainer that calls `model(..., labels=...)` therefore trains with OTR without a change to its own code. The
normalisation of the loss, mixed precision, auxiliary losses and wrappers stay the host's. The loss is computed inside
the head's own forward because a host that shards the head's weight gathers it there. For the same reason, the autograd
graph leads from the returned loss through the placeholder: loss_in_graph.py.

The loss in the output has the value of the NLL, which can be compared with an SFT run, and the gradient of the
configured objective, whose value is logged as a metric.

The forward of an attached model takes one argument more, `token_weights`: factors of each position's loss, of the shape
of the labels, and shifted as the labels are. Both the objective and the NLL in the output are multiplied by them.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from otr_plugin import __version__
from otr_plugin.config import OTRConfig
from otr_plugin.loss import otr_loss
from otr_plugin.loss.dispatch import kernel_name
from otr_plugin.metrics import TOKEN_COUNT, WEIGHTED_NLL, average_of_numbers, metric_names, to_numbers
from otr_plugin.model.call import Call, checked_num_items, of_next_token
from otr_plugin.model.description import describe_objective
from otr_plugin.model.first_step import FirstStepReport, begin_check
from otr_plugin.model.inline_loss import (
    INLINE_LOSS_MODELS,
    forward_class,
    forward_with_inserted_loss,
    trained_labels,
)
from otr_plugin.model.loss_in_graph import carry, land
from otr_plugin.model.no_logits import replace_logits
from otr_plugin.model.projection import (
    head_device,
    innermost,
    inside_parts,
    linear_arguments,
    logit_transform,
    parts,
)
from otr_plugin.model.ranks import (
    data_parallel_rank,
    in_group,
    refuse_data_parallel,
    tensor_parallel_mesh,
)
from otr_plugin.model.replaced_forward import ReplacedForward
from otr_plugin.model.sum_over_ranks import sum_over_ranks
from otr_plugin.model.wrappers import unwrapped

HANDLE_ATTRIBUTE = "_otr_handle"
TOKEN_WEIGHTS = "token_weights"  # the forward's argument
COPY_FOR_DATA_PARALLEL = "_replicate_for_data_parallel"  # torch.nn.Module's method that nn.DataParallel calls


class Handle:
    """An attached model, returned by attach().

    A host calls `start_step` before each optimiser step and `take_metrics` when it logs. It may set:

        rank                     the data-parallel rank; ranks draw different tokens. Default: that of torch.distributed
        evaluation_needs_logits  True: in evaluation the model runs unchanged, with whole logits
        transform_output         called with the Call and the model's output after each forward that computed the
                                 loss; its result is returned in place of the output. The output has no logits
        extra_arguments          names of keyword arguments that the host passes to the model's forward and that are
                                 removed because the forward does not accept them
        on_detach                functions that detach() calls once, of this handle and of its copies
        default_seed             the seed of the draws if attach() was given none
        disconnect               ends what a host does while one of its trainers works with the model; detach() calls it
    """

    attached: ClassVar[weakref.WeakSet[Handle]] = weakref.WeakSet()  # all handles of attached models, copies included
    names_of_sums: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, model: Any, config: OTRConfig, seed: int | None) -> None:
        self.model, self.config, self.seed = model, config, seed
        # Of the loss in evaluation
        self.nll_config = OTRConfig(objective="sft", chunk_tokens=config.chunk_tokens, kernel=config.kernel)
        self.head, self.forward_class = unwrapped(model.get_output_embeddings()), forward_class(model)
        self.logit_transform = logit_transform(model.config)

        self.mesh = tensor_parallel_mesh(model)  # over which tensor parallelism splits the model; None without it
        self.rank: int | None = None
        self.evaluation_needs_logits = False
        self.transform_output: Callable[[Call, Any], Any] | None = None
        self.extra_arguments: tuple[str, ...] = ()
        self.on_detach: list[Callable[[], None]] = []
        self.default_seed = 0
        self.disconnect: Callable[[], None] | None = None

        self.step = self.micro_batch = 0  # micro_batch: training forwards since start_step
        self.first_step_report: FirstStepReport | None = None  # None until the first-step check has passed
        self.call: Call | None = None  # the forward that is running
        self.sums: dict[str, Tensor] = {}  # each metric's sum since take_metrics
        self.name_of_sums: int | None = None  # the same number on all ranks; from the first take_metrics on
        self.times_taken = 0

        Handle.attached.add(self)
        self._replace_functions()
        for module in (model, self.head):
            setattr(module, HANDLE_ATTRIBUTE, self)
        setattr(model, COPY_FOR_DATA_PARALLEL, refuse_data_parallel)

    def detach(self) -> None:
        """Restore the model and call the functions in `on_detach`. Does nothing the second time."""
        if self not in Handle.attached:
            return
        Handle.attached.remove(self)
        self._restore_functions()
        for module in (self.model, self.head):
            delattr(module, HANDLE_ATTRIBUTE)
        delattr(self.model, COPY_FOR_DATA_PARALLEL)
        if self.disconnect is not None:
            self.disconnect()
        for function in self.on_detach:
            function()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Restore the model for the time of a block. What the block replaces in the model then lies under OTR."""
        self._restore_functions()
        try:
            yield
        finally:
            if self in Handle.attached:
                self._replace_functions()

    def _replace_functions(self) -> None:
        model = self.model
        self.original_loss_function = model.loss_function
        # transformers stores an assigned loss_function there, and otherwise looks one up by the model's type.
        self.had_assigned_loss_function = "_loss_function" in model.__dict__
        self.replaced_forwards = [
            ReplacedForward(model, _make_model_forward),
            ReplacedForward(self.head, _make_head_forward),
        ]
        model.loss_function = self.loss_function

    def _restore_functions(self) -> None:
        for replaced in self.replaced_forwards:
            replaced.undo()
        if self.had_assigned_loss_function:
            self.model.loss_function = self.original_loss_function
        else:
            del self.model._loss_function

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model belongs to no trainer: a trainer that was copied with it would copy its data, too."""
        of_a_trainer = {"disconnect": None, "transform_output": None, "extra_arguments": ()}
        return self.__dict__ | of_a_trainer | {"name_of_sums": None, "times_taken": 0}

    def __deepcopy__(self, memo: dict[int, Any]) -> Handle | None:
        """The handle of a copied model. A copy of the head alone has none: the whole model would be copied with it.

        PEFT copies a head that is in modules_to_save.
        """
        if id(self.model) not in memo:
            return None
        memo[id(self)] = twin = Handle.__new__(Handle)
        twin.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return twin

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copied or unpickled model is attached, like its original."""
        self.__dict__ = state
        Handle.attached.add(self)

    def describe(self, device: torch.device | None = None) -> str:
        """One line for the host's log: that OTR is active, every setting that has an effect, and inside which head.

        `device` is where the model will train, if that is not where its head is now.
        """
        weight = innermost(self.head).weight
        dtype = weight.dtype if weight.is_floating_point() else torch.float32  # 4-bit weights are stored as integers
        kernel = kernel_name(self.config.kernel, weight.device if device is None else device, dtype)
        divided = "" if self.mesh is None else f" (tensor parallelism: {self.mesh.size()} ranks)"
        seed = f", seed {self.seed_of_draws}" if self.config.draws else ""
        trained = weight.requires_grad or any(p.requires_grad for p in self.head.parameters())
        return (
            f"OTR is active: {describe_objective(self.config)}{seed}, kernel {kernel}, chunk_tokens "
            f"{self.config.chunk_tokens}, computed inside the {'trained' if trained else 'frozen'} "
            f"{type(self.head).__name__} head{divided} of {type(self.model).__name__}, otr-plugin {__version__}"
        )

    @property
    def seed_of_draws(self) -> int:
        """The seed that attach() was given; without one, the default seed."""
        return self.default_seed if self.seed is None else self.seed

    def start_step(self, step: int) -> None:
        """Key the draws of the following forwards by this optimiser step."""
        self.step, self.micro_batch = step, 0

    def require_loss_in_step(self) -> None:
        """Raise RuntimeError if OTR's loss has not been computed in training since `start_step`."""
        if self.micro_batch == 0:
            raise RuntimeError(
                "otr: an optimiser step was taken without OTR's loss: the model was not called with labels in training "
                "mode, so something else, such as a compute_loss of the trainer's own, computed a loss from the "
                "model's logits. Remove the setting or the code that does this, or train without OTR."
            )

    def take_metrics(self) -> dict[str, float]:
        """Return the `otr/...` averages since the last call, over all ranks, and start anew; {} if no rank trained.

        Every rank has to call it after the same steps, because it sums over ranks. A rank that does not is an error on
        the others: sum_over_ranks.py. It waits for the device once.
        """
        sums, self.sums = self.sums, {}
        names = [*metric_names(self.config.has_rollout), TOKEN_COUNT]
        # Every rank has the same numbers in the same order, also one that did not train: the last is whether it did.
        values = to_numbers(sums) if sums else {}
        numbers = [*(values.get(name, 0.0) for name in names), float(bool(sums))]
        if in_group():
            if self.name_of_sums is None:
                self.name_of_sums = next(Handle.names_of_sums)
            numbers = sum_over_ranks(f"{self.name_of_sums}/{self.times_taken}", self.step, numbers)
            self.times_taken += 1
        *numbers, trained = numbers
        return average_of_numbers(dict(zip(names, numbers, strict=True))) if trained else {}

    # model_forward replaces model.forward. Its steps follow it.

    def model_forward(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the model's forward. If it has labels, its loss is OTR's, or a RuntimeError says why it is not."""
        kwargs = {name: value for name, value in kwargs.items() if name not in self.extra_arguments}
        token_weights = kwargs.pop(TOKEN_WEIGHTS, None)
        arguments = self._arguments_by_name(args, kwargs)
        call = self._new_call(arguments, token_weights)
        if call is None:
            return original(*args, **kwargs)
        self._require_attached_head()
        self.call = call
        try:
            if self.forward_class in INLINE_LOSS_MODELS:
                output = forward_with_inserted_loss(original, arguments, self.loss_function)
            else:
                output = original(*args, **kwargs)
        except Exception as error:
            if call.loss is None or call.loss_returned:
                raise
            raise RuntimeError(
                f"otr: {type(self.model).__name__} failed after its output head, where OTR computes the loss, and "
                f"before it called its loss_function: {error}. Most likely its forward computes the loss inline, from "
                "logits that do not exist with OTR. OTR does not support this model."
            ) from error
        finally:
            self.call = None
        self._require_loss_returned(call)
        output = replace_logits(output, call.placeholder_shapes)
        return output if self.transform_output is None else self.transform_output(call, output)

    def _arguments_by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        if not args:
            return kwargs
        names = inspect.signature(type(self.model).forward).parameters
        return dict(zip(list(names)[1:], args, strict=False)) | kwargs

    def _new_call(self, arguments: dict[str, Any], token_weights: Tensor | None) -> Call | None:
        """The Call for a forward with these arguments; None if the forward should run unchanged."""
        labels, shift_labels = trained_labels(self.forward_class, arguments), arguments.get("shift_labels")
        given = labels if shift_labels is None else shift_labels
        if given is None:
            return None
        if self.call is not None:  # a forward inside another one of the same model: the outer one has the loss
            return None
        if token_weights is not None and token_weights.shape != given.shape:
            raise ValueError(
                f"otr: token_weights has shape {list(token_weights.shape)}, and the labels have shape "
                f"{list(given.shape)}: give one weight for each label, the label's own."
            )
        if self.evaluation_needs_logits and not self.model.training:
            if token_weights is not None:
                raise ValueError(
                    "otr: this evaluation needs whole logits, so the model's own loss function computes the loss, and "
                    "it has no token_weights. Leave compute_metrics out, or evaluate without token_weights."
                )
            return None
        return Call(labels, shift_labels, token_weights, arguments.get("num_items_in_batch"))

    def _require_attached_head(self) -> None:
        if unwrapped(self.model.get_output_embeddings()) is not self.head:
            raise RuntimeError(
                f"otr: the output head of {type(self.model).__name__} was replaced after attach(), and OTR would "
                "compute nothing in the new one. PEFT replaces the head if lm_head is in target_modules or "
                "modules_to_save. Call attach() after the head was replaced."
            )

    def _require_loss_returned(self, call: Call) -> None:
        if not call.loss_returned:
            missed = "output head" if call.loss is None else "loss_function"
            raise RuntimeError(
                f"otr: {type(self.model).__name__} was called with labels, but its forward did not call its {missed}: "
                "something else computes the loss, and the model would be trained without OTR. The usual cause is a "
                "fused cross entropy (Liger's fused_linear_cross_entropy, Cut Cross Entropy, Unsloth), which has to "
                "be disabled."
            )

    # head_forward replaces lm_head.forward. Its steps follow it.

    def head_forward(self, original: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        """Compute the loss of the call from the head's input; return a placeholder for the logits, [..., 1].

        In the first training step the return value is instead the whole logits of the few positions that the
        first-step check compares. Without a call, as in generation, the head's original forward runs.
        """
        call = self.call
        if call is None or call.loss is not None:
            return original(hidden)
        if self.first_step_report is None:  # an engine may have split the model after attach()
            mesh = tensor_parallel_mesh(self.model)
            # FSDP may have gathered all parameters by now, and then they do not show that they are split twice.
            self.mesh = self.mesh if mesh is None else mesh
        zero: Tensor = self._compute_in_parts(call, hidden).to(hidden.device)
        if call.first_step_check is None:
            placeholder = hidden.new_zeros(*hidden.shape[:-1], 1) + zero
        else:
            placeholder = call.first_step_check.head_output(original) + zero
        call.placeholder_shapes.add(placeholder.shape)
        return placeholder

    @torch.compiler.disable
    def _compute_in_parts(self, call: Call, hidden: Tensor) -> Tensor:
        """Compute the call's loss where all weights of the head are gathered; return a 0 with the loss's gradient."""
        # Gradient checkpointing around the head would drop what backward needs, and compute the loss a second time.
        with torch.autograd.graph.saved_tensors_hooks(_same, _same):
            return inside_parts(self.head, hidden, functools.partial(self._compute, call))

    def _compute(self, call: Call, hidden: Tensor) -> Tensor:
        labels, token_weights = of_next_token(call, hidden)
        loss, call.loss, call.sums = self._compute_loss(hidden, labels, token_weights, call.num_items)
        if self.model.training:
            self.micro_batch += 1
            self._add_to_metrics(call.sums)
            if self.first_step_report is None:
                call.first_step_check = begin_check(
                    self.head, hidden, labels, self.logit_transform, self.nll_config, self.mesh
                )
        zero: Tensor
        zero, call.box = carry(loss)
        return zero

    def _compute_loss(
        self, hidden: Tensor, labels: Tensor, token_weights: Tensor | None, num_items: Any
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The objective, the value that the output's loss will have, and the sums of the metrics."""
        device = head_device(self.head)
        labels = labels.reshape(-1).to(device)
        if token_weights is not None:
            token_weights = token_weights.reshape(-1).to(device)
        arguments = linear_arguments(self.head, hidden.reshape(-1, hidden.shape[-1]).to(device), self.mesh)
        config = self.config if self.model.training else self.nll_config
        num_items = checked_num_items(num_items, labels)
        loss, sums = otr_loss(
            arguments.hidden,
            arguments.weight,
            labels,
            config,
            bias=arguments.bias,
            vocabulary_slice=arguments.vocabulary_slice,
            num_items=num_items,
            generator=self.generator(device) if config.draws else None,
            token_weights=token_weights,
            **self.logit_transform._asdict(),
        )
        divisor = sums[TOKEN_COUNT].clamp(min=1) if num_items is None else num_items
        if isinstance(divisor, Tensor):  # 0 / 0 is 0 here; with trained tokens, the loss itself is not finite
            divisor = divisor.masked_fill(divisor == 0, 1)
        nll = sums.pop(WEIGHTED_NLL, sums["nll"])
        return loss, (nll / divisor).to(nll.dtype), sums

    def generator(self, device: torch.device) -> torch.Generator:
        """The source of the uniforms [positions, samples] that decide the draws of the current micro-batch.

        It is a generator of OTR's own, so the host's random stream is the same as without OTR.
        """
        rank = data_parallel_rank(self.mesh) if self.rank is None else self.rank
        seed = draw_seed(self.seed_of_draws, self.step, self.micro_batch, rank)
        return torch.Generator(device).manual_seed(seed)

    def _add_to_metrics(self, sums: dict[str, Tensor]) -> None:
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    # loss_function replaces model.loss_function.

    def loss_function(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss that head_forward computed, after the first-step check of the logits if one was begun.

        Without a call in evaluation (evaluation_needs_logits), return the loss of the original loss_function.
        """
        call = self.call
        if call is not None and call.loss is not None:
            call.loss_returned = True
            logits = args[0] if args else kwargs["logits"]
            call.placeholder_shapes.add(logits.shape)
            if call.first_step_check is not None:
                self.first_step_report = call.first_step_check.compare(
                    logits, self.original_loss_function, type(self.model).__name__
                )
            if call.landed is None:
                assert call.box is not None
                call.landed = land(logits, call.loss, call.box)
            return call.landed.clone()  # mixture-of-experts models add their auxiliary loss to it in place
        if call is None and not self.model.training:
            loss: Tensor = self.original_loss_function(*args, **kwargs)
            return loss
        missed = "forward" if call is None else "output head's forward"
        raise RuntimeError(
            f"otr: {type(self.model).__name__} called its loss_function, but OTR's replacement of its {missed} did not "
            "run: another function was put in its place after attach(), or the model was pickled. Call attach() last, "
            "or disable what replaced it."
        )


def require_attachable(model: Any, config: OTRConfig) -> None:
    """Raise a ValueError if OTR cannot compute the loss of this model, or not with these settings."""
    parts(unwrapped(model.get_output_embeddings()))  # raises if the head is not supported
    # A larger top_k would leave nothing out, which is not what its author meant.
    vocabulary = model.config.get_text_config().vocab_size
    if config.top_k is not None and config.top_k > vocabulary:
        raise ValueError(
            f"otr: top_k is {config.top_k}, but {type(model).__name__} has {vocabulary} tokens: set top_k to at most "
            f"{vocabulary}, or remove it."
        )


def draw_seed(seed: int, step: int, micro_batch: int, rank: int) -> int:
    """The seed of the generator for the draws of one training forward.

    It depends on these four numbers and on nothing else, so a run that is resumed from a checkpoint repeats the draws
    of the uninterrupted run, and no state has to be saved for it. The rank is among them because ranks train on
    different examples: with the same uniforms on every rank, their sampling errors would not average out.
    """
    key = f"{seed}/{step}/{micro_batch}/{rank}".encode()
    # Seven bytes, because manual_seed takes a signed integer of eight.
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")


def _same(tensor: Tensor) -> Tensor:
    return tensor


# Both replacements look the handle up on the module at each call: a deep copy of the model has a handle of its own.


def _make_model_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        handle: Handle = getattr(self, HANDLE_ATTRIBUTE)
        return handle.model_forward(functools.partial(original, self), args, kwargs)

    return forward


def _make_head_forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        handle: Handle | None = getattr(self, HANDLE_ATTRIBUTE, None)
        if handle is None:  # a copy of the head alone; it may have been attached and detached as another model's head
            return original(self, hidden, *args, **kwargs)
        return handle.head_forward(lambda h: original(self, h, *args, **kwargs), hidden)

    return forward
