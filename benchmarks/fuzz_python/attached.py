"""Random operations on an attached model. After each of them it gives what docs/attached-model.md promises.

A twin that is never attached goes through the same operations. Before a comparison it gets the model's parameters; so
it is the model without OTR. The gradient that training has to give comes from truth.py, at the twin's logits.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from typing import Any, ClassVar

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from peft import LoraConfig, get_peft_model

from benchmarks.fuzz_python import truth
from otr_plugin import OTRConfig, attach
from otr_plugin.model.attach import find_causal_lm
from otr_plugin.model.handle import HANDLE_ATTRIBUTE
from otr_plugin.model.no_logits import NO_LOGITS
from tests.model.families import V, batch, tiny

FAMILIES = (
    "llama",
    "llama, tied",
    "gemma2, softcap",
    "granite, logits_scaling",
    "cohere, logit_scale",
    "mixtral, auxiliary loss",
    "gpt2, tied",
    "phi, head with bias",
)
# The layers that adapters are put on, beside the head
LAYERS = {"gpt2, tied": "c_proj", "mixtral, auxiliary loss": "o_proj"}
CONFIGS: tuple[dict[str, Any], ...] = (
    {},
    {"samples": 4},
    {"samples": 2, "baseline": "mean", "beta": 0.5, "nll_weight": 0.3},
    {"samples": 3, "top_k": 5},
    {"estimator": "exact"},
    {"estimator": "exact", "temperature": 0.5, "beta": -2},
    {"objective": "dft", "chunk_tokens": 2},
    {"objective": "power", "alpha": 0.7},
    {"objective": "eaft", "min_label_prob": 1e-5},
    {"objective": "sft"},
    {"objective": "sft", "nll_weight": 0.5},
)
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 0.1, torch.float64: 1e-10}
LOGIT_ERROR = 3e-6  # of float32 logits that one matrix product computes at once and another in chunks


class InTheMiddleError(Exception):
    """What the operation `an_exception_in_the_middle` raises inside the model."""


class AttachedModel(RuleBasedStateMachine):
    """The operations, in any order."""

    operations: ClassVar[Counter[str]] = Counter()  # of all machines since the process has started

    @initialize(family=st.sampled_from(FAMILIES), seed=st.integers(0, 1000), settings=st.sampled_from((None, *CONFIGS)))
    def make(self, family: str, seed: int, settings: dict[str, Any] | None) -> None:
        self.count("model")
        self.forwards = 0
        self.family = family
        self.model, self.twin = tiny(family, seed), tiny(family, seed)
        self.handle: Any = None
        self.handles: list[Any] = []
        self.dtype = torch.float32
        self.head_was_replaced = self.was_pickled = self.was_checkpointed = False
        # PEFT has copied an attached head alone. The copy keeps a forward that only calls the head's own.
        self.is_a_copy_of_the_head = False
        self.vocabulary = V
        if settings is not None:
            self.attach(settings, None)

    @invariant()
    def contract(self) -> None:
        """After every operation: a forward with labels, and one without."""
        self.forwards += 1
        self.forward_with_labels(self.forwards, 2, 7, None, 1, False)
        if self.forwards % 3 == 0:
            self.forward_without_labels(self.forwards, 2, 7)

    def teardown(self) -> None:
        for handle in getattr(self, "handles", []):
            handle.detach()

    def count(self, name: str) -> None:
        self.operations[name] += 1

    # What changes the state

    @rule(settings=st.sampled_from(CONFIGS), seed=st.none() | st.integers(0, 9))
    def attach(self, settings: dict[str, Any], seed: int | None) -> None:
        self.count("attach")
        config = OTRConfig(**settings if settings else {"samples": 4})
        old = self.handle
        self.handle = attach(self.model, config, seed=seed)
        self.handles.append(self.handle)
        self.head_was_replaced = self.was_pickled = False
        assert old is None or old is not self.handle
        assert getattr(find_causal_lm(self.model), HANDLE_ATTRIBUTE) is self.handle

    @rule(settings=st.sampled_from([{"top_k": 10**6}, {"objective": "ppo"}, {"samples": 0}]))
    def attach_with_wrong_settings(self, settings: dict[str, Any]) -> None:
        self.count("attach, wrong")
        before = dict(vars(find_causal_lm(self.model)))
        try:
            attach(self.model, OTRConfig(**settings))
        except ValueError as error:
            assert next(iter(settings)) in str(error), error  # noqa: PT017 (not a test function)
        else:
            raise AssertionError("wrong settings are accepted")
        assert dict(vars(find_causal_lm(self.model))) == before

    @rule()
    def detach(self) -> None:
        if self.handle is None or self.was_pickled:
            return
        self.count("detach")
        for _ in range(2):
            self.handle.detach()
        self.handle, self.head_was_replaced = None, False
        inner = find_causal_lm(self.model)
        assert not {"forward", "_loss_function", HANDLE_ATTRIBUTE} & vars(inner).keys()
        head = inner.get_output_embeddings()
        assert getattr(head, HANDLE_ATTRIBUTE, None) is None
        if not self.is_a_copy_of_the_head:
            assert not {"forward", HANDLE_ATTRIBUTE} & vars(head).keys()
        self.same_state()

    @rule(training=st.booleans())
    def mode(self, training: bool) -> None:
        self.count("train" if training else "eval")
        for one in (self.model, self.twin):
            one.train(training)

    @rule(on=st.booleans())
    def evaluation_needs_logits(self, on: bool) -> None:
        if self.handle is not None:
            self.count("evaluation_needs_logits")
            self.handle.evaluation_needs_logits = on

    @rule(step=st.integers(0, 10**6), rank=st.integers(0, 3))
    def start_step(self, step: int, rank: int) -> None:
        if self.handle is not None:
            self.count("start_step")
            self.handle.start_step(step)
            self.handle.rank = rank

    @rule()
    def deep_copy(self) -> None:
        self.count("deep copy")
        original, old = self.model, self.handle
        self.model = copy.deepcopy(original)
        if old is not None and not self.was_pickled:
            self.handle = getattr(find_causal_lm(self.model), HANDLE_ATTRIBUTE)
            assert self.handle is not old
            assert self.handle.config == old.config
            self.handles.append(self.handle)
            if not self.head_was_replaced:
                assert self.handle.head is find_causal_lm(self.model).get_output_embeddings()
            old.detach()  # must not touch the copy

    # transformers pickles few families, and none with enable_input_require_grads.
    @precondition(lambda self: self.family == "gpt2, tied" and not self.is_wrapped and not self.was_checkpointed)
    @rule()
    def pickle(self) -> None:
        self.count("pickle")
        self.model = pickle.loads(pickle.dumps(self.model))
        if self.handle is not None:
            self.was_pickled = True
            self.handle = getattr(self.model, HANDLE_ATTRIBUTE)
            self.handles.append(self.handle)

    @rule(dtype=st.sampled_from(list(TOLERANCE)))
    def to_dtype(self, dtype: torch.dtype) -> None:
        if self.family == "mixtral, auxiliary loss":
            return  # PyTorch has no experts in float64; in bfloat16, rounding decides which expert is chosen
        self.count(f"to {dtype}")
        for one in (self.model, self.twin):
            one.to(dtype)
        self.dtype = dtype

    @rule(on=st.booleans(), reentrant=st.booleans())
    def gradient_checkpointing(self, on: bool, reentrant: bool) -> None:
        self.count("gradient checkpointing")
        self.was_checkpointed = True
        for one in (self.model, self.twin):
            inner = find_causal_lm(one)
            if on:
                one.enable_input_require_grads()
                inner.gradient_checkpointing_enable({"use_reentrant": reentrant})
            else:
                inner.gradient_checkpointing_disable()

    @precondition(lambda self: not self.is_wrapped)
    @rule(more=st.integers(1, 9))
    def resize_token_embeddings(self, more: int) -> None:
        self.count("resize_token_embeddings")
        self.vocabulary += more
        for one in (self.model, self.twin):
            one.resize_token_embeddings(self.vocabulary)
        self.head_was_replaced = self.handle is not None and self.handle.head is not self.model.get_output_embeddings()

    @property
    def is_wrapped(self) -> bool:
        return find_causal_lm(self.model) is not self.model

    @precondition(lambda self: not self.is_wrapped and not self.was_pickled)
    @rule(place=st.sampled_from(["layers", "head", "modules_to_save", "DoRA"]))
    def adapter(self, place: str) -> None:
        if "tied" in self.family and place != "layers":
            return  # PEFT warns about adapters on tied heads
        self.count(f"adapter: {place}")
        layer = LAYERS.get(self.family, "q_proj")
        settings: dict[str, Any] = {"target_modules": [layer]}
        if place in ("head", "DoRA"):
            settings = {"target_modules": [layer, "lm_head"], "use_dora": place == "DoRA"}
        elif place == "modules_to_save":
            settings["modules_to_save"] = ["lm_head"]
        wrapped = []
        for one in (self.model, self.twin):
            torch.manual_seed(0)
            adapted = get_peft_model(one, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name:
                    parameter.data.normal_(std=0.1)
            wrapped.append(adapted.to(self.dtype).train(one.training))
        self.model, self.twin = wrapped
        if self.handle is not None and place != "layers":
            self.head_was_replaced = True
            self.is_a_copy_of_the_head = place == "modules_to_save"

    @precondition(lambda self: self.is_wrapped)
    @rule()
    def merge_the_adapter(self) -> None:
        self.count("adapter merged")
        head = find_causal_lm(self.model).get_output_embeddings()
        self.model, self.twin = self.model.merge_and_unload(), self.twin.merge_and_unload()
        for one in (self.model, self.twin):
            one.requires_grad_(True)
        now = self.model.get_output_embeddings()
        if self.handle is not None and now is not head:
            self.head_was_replaced = now is not self.handle.head

    # What is compared

    def same_state(self) -> None:
        """Gives the twin the model's parameters: there are the same."""
        state = self.model.state_dict()
        assert state.keys() == self.twin.state_dict().keys()
        self.twin.load_state_dict(state)
        for one in (self.model, self.twin):
            one.zero_grad()

    def inputs(self, seed: int, rows: int, length: int) -> dict[str, Any]:
        return batch(rows, length, seed)

    @property
    def problem(self) -> str | None:
        """What the error of a forward with labels has to contain, if there has to be one."""
        if self.handle is None or (self.handle.evaluation_needs_logits and not self.model.training):
            return None
        if self.was_pickled:
            return "Call attach() last" if self.model.training else None
        return "was replaced after attach()" if self.head_was_replaced else None

    @property
    def computes_otr(self) -> bool:
        """Whether a forward with labels computes OTR's loss."""
        is_evaluation = not self.model.training
        unchanged = self.handle is None or (is_evaluation and (self.handle.evaluation_needs_logits or self.was_pickled))
        return not unchanged

    @rule(
        seed=st.integers(0, 10**6),
        rows=st.integers(1, 3),
        length=st.integers(2, 12),
        items=st.sampled_from([None, None, 50, torch.tensor(20)]),
        masked=st.integers(0, 5),
        as_tuple=st.booleans(),
    )
    def forward_with_labels(self, seed: int, rows: int, length: int, items: Any, masked: int, as_tuple: bool) -> None:
        self.same_state()
        inputs = self.inputs(seed, rows, length)
        if masked == 0:
            inputs["labels"][:] = -100
        if (inputs["labels"][:, 1:] == -100).all() and not self.computes_otr:
            return  # the model's own loss is 0 / 0
        if items is not None:
            inputs["num_items_in_batch"] = items
        if self.problem is not None:
            self.count("forward, refused")
            try:
                self.model(**inputs)
            except RuntimeError as error:
                assert self.problem in str(error), error  # noqa: PT017 (not a test function)
                assert self.handle.call is None
            else:
                raise AssertionError(f"no error: {self.problem}")
            return
        self.count("forward with labels" if self.computes_otr else "forward with labels, without OTR")
        if self.computes_otr and self.model.training:
            self.train(inputs, as_tuple)
        else:
            self.evaluate(inputs, as_tuple)

    def loss_and_logits(self, output: Any) -> tuple[Any, Any]:
        """Of an output, or of a tuple, in which the auxiliary loss of experts stands before the logits."""
        if not isinstance(output, tuple):
            return output.loss, output.logits
        return output[0], output[2 if "auxiliary" in self.family else 1]

    def evaluate(self, inputs: dict[str, Any], as_tuple: bool) -> None:
        """A forward that gives the model's own loss: in evaluation, or without OTR."""
        output = self.model(**inputs, return_dict=not as_tuple)
        want = self.twin(**inputs)
        loss, logits = self.loss_and_logits(output)
        trained = int((inputs["labels"][:, 1:] != -100).sum())
        if trained:
            self.close(loss, want.loss)
        elif "auxiliary" in self.family:  # the model adds the loss of its experts, which needs no label
            self.close(loss, self.twin.config.router_aux_loss_coef * want.aux_loss)
        else:
            assert loss == 0
        if self.computes_otr:
            assert logits is NO_LOGITS
        else:
            assert torch.equal(logits, want.logits)
            loss.backward()
            want.loss.backward()
            self.same_gradients()

    def train(self, inputs: dict[str, Any], as_tuple: bool) -> None:
        handle, config = self.handle, self.handle.config
        state, micro_batch = torch.get_rng_state(), handle.micro_batch
        labels = torch.nn.functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:].reshape(-1)
        uniforms = None
        if config.draws:
            uniforms = torch.rand(len(labels), config.samples, generator=handle.generator(labels.device))
        handle.take_metrics()
        output = self.model(**inputs, return_dict=not as_tuple)
        loss, logits = self.loss_and_logits(output)
        assert logits is NO_LOGITS
        assert handle.micro_batch == micro_batch + 1
        assert torch.equal(state, torch.get_rng_state()), "the host's random numbers were used"
        loss.backward()
        if self.dtype == torch.bfloat16 and config.has_rollout:
            return  # logits in bfloat16 lead to other draws
        count = int((labels != -100).sum())
        items = float(inputs.get("num_items_in_batch", max(count, 1)))
        own = self.twin(
            **{name: value for name, value in inputs.items() if name not in ("labels", "num_items_in_batch")}
        )
        z = own.logits.reshape(len(labels), -1)
        gradient, nll, metrics = torch.zeros_like(z), 0.0, Counter[str]()
        for i in np.flatnonzero(labels.numpy() != -100):
            error = LOGIT_ERROR if self.dtype == torch.float32 else 1e-12 if self.dtype == torch.float64 else 0.0
            u = None if uniforms is None else uniforms[i].double().numpy()
            row = truth.of_row(z[i].detach().double().numpy(), int(labels[i]), u, config, error, 1e-8)
            if config.draws and not row.is_sure:
                self.count("(a draw that rounding decides)")
                return
            gradient[i] = torch.from_numpy(row.gradient).to(z.dtype) / items
            nll += row.metrics["nll"] / items
            metrics.update(row.metrics)
        extra = 0
        if getattr(own, "aux_loss", None) is not None:
            extra = find_causal_lm(self.twin).config.router_aux_loss_coef * own.aux_loss
        self.close(loss, torch.tensor(nll, dtype=torch.float64) + extra)
        ((gradient * z).sum() + extra).backward()
        self.same_gradients()
        logged = handle.take_metrics()
        for name, value in logged.items():
            short = name.removeprefix("otr/")
            if short == "accuracy":
                continue
            want = metrics[short] / max(count, 1)
            assert abs(value - want) <= 20 * TOLERANCE[self.dtype] * max(1, abs(want)), (name, value, want)

    def close(self, got: torch.Tensor, want: torch.Tensor) -> None:
        difference = abs(float(got.detach().double()) - float(want.detach().double()))
        # The model's own loss converts logits to float32, whatever their dtype.
        assert difference <= max(TOLERANCE[self.dtype], 1e-6) * max(1, abs(float(want.detach()))), (
            float(got),
            float(want),
        )

    def same_gradients(self) -> None:
        got, want = ({n: p.grad for n, p in one.named_parameters()} for one in (self.model, self.twin))
        assert got.keys() == want.keys()
        for name, value in want.items():
            if value is None:
                assert got[name] is None or not got[name].any(), name
                continue
            assert got[name] is not None, name
            size = value.abs().max().double().clamp(min=1e-3)
            difference = (got[name].double() - value.double()).abs().max() / size
            assert difference <= TOLERANCE[self.dtype], (name, float(difference), float(size))

    @rule(seed=st.integers(0, 10**6), rows=st.integers(1, 3), length=st.integers(1, 12))
    def forward_without_labels(self, seed: int, rows: int, length: int) -> None:
        self.count("forward without labels")
        self.same_state()
        inputs = self.inputs(seed, rows, max(length, 1))
        del inputs["labels"]
        micro_batch = None if self.handle is None else self.handle.micro_batch
        assert torch.equal(self.model(**inputs).logits, self.twin(**inputs).logits)
        assert self.handle is None or self.handle.micro_batch == micro_batch

    @rule(seed=st.integers(0, 10**6))
    def generate(self, seed: int) -> None:
        if self.model.training or self.family == "mixtral, auxiliary loss":
            return  # with an auxiliary loss, transformers' own generate fails after the first token
        self.count("generate")
        self.same_state()
        inputs = self.inputs(seed, 2, 5)
        del inputs["labels"]
        got, want = (one.generate(**inputs, max_new_tokens=3, do_sample=False) for one in (self.model, self.twin))
        assert torch.equal(got, want)

    @rule(seed=st.integers(0, 10**6), where=st.sampled_from(["layer", "head", "labels"]))
    def an_exception_in_the_middle(self, seed: int, where: str) -> None:
        if not self.computes_otr or self.problem is not None:
            return
        self.count(f"exception: {where}")
        inputs = self.inputs(seed, 2, 6)
        inner = find_causal_lm(self.model)
        expected: Any = InTheMiddleError
        hooks = []
        if where == "labels":
            inputs["labels"][:, -1] = self.vocabulary + 5
            expected = ValueError
        else:

            def fail(*_: Any) -> None:
                raise InTheMiddleError

            module = inner.get_input_embeddings() if where == "layer" else inner.get_output_embeddings()
            hooks.append(module.register_forward_pre_hook(fail))
        try:
            self.model(**inputs)
        except expected:
            pass
        else:
            raise AssertionError("no exception")
        finally:
            for hook in hooks:
                hook.remove()
        assert self.handle.call is None

    @rule(seed=st.integers(0, 10**6), rate=st.sampled_from([1e-4, 1e-2]))
    def optimiser_step(self, seed: int, rate: float) -> None:
        if self.problem is not None or not self.model.training or self.dtype == torch.bfloat16:
            return
        self.count("optimiser step, two micro-batches")
        self.model.zero_grad()
        for part in range(2):
            self.model(**self.inputs(seed + part, 2, 8), num_items_in_batch=30).loss.backward()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        torch.optim.SGD(trained, rate).step()
        self.same_state()

    @rule()
    def under_autocast(self) -> None:
        if self.dtype != torch.float32 or self.problem is not None or not self.computes_otr:
            return
        self.count("autocast")
        self.same_state()
        inputs = self.inputs(0, 2, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got, want = self.model(**inputs).loss, self.twin(**inputs).loss
        assert abs(float(got) - float(want)) < 0.05 * max(1, abs(float(want)))
