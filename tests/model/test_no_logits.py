"""Logits that do not exist raise wherever they are read, and no number of the placeholder leaves the model."""

import copy
import pickle

import numpy as np
import pytest
import torch
from accelerate.utils import convert_to_fp32
from torch.utils import _pytree as pytree
from transformers import Trainer, TrainingArguments

from otr_plugin import OTRConfig, attach
from otr_plugin.model.no_logits import NO_LOGITS, NoLogitsError

from .comparison import OTR, SFT, assert_same_gradients, loss_and_gradients
from .families import V, batch, tiny
from .test_inline_loss import MODELS, small

MESSAGE = "the logits of this forward do not exist: called with labels, .* Call the model without labels to get logits"
READS = {
    "method": lambda logits: logits.argmax(-1),
    "attribute": lambda logits: logits.shape,
    "torch function": lambda logits: torch.logsumexp(logits, -1),
    "loss function": lambda logits: torch.nn.functional.cross_entropy(logits, torch.zeros(3).long()),
    "slice": lambda logits: logits[:, :-1],
    "left operand": lambda logits: logits * 2,
    "right operand": lambda logits: torch.ones(3) + logits,
    "comparison": lambda logits: logits == 1,
    "iteration": list,
    "truth": bool,
    "number": float,
    "array": np.asarray,
    "assignment": lambda logits: logits.__setitem__(0, 1),
}


def is_in(logits, output):
    values = output if isinstance(output, tuple) else output.values()
    return any(value is logits for value in values)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_reading_them_raises(train, read):
    model = tiny("llama").train(train)
    attach(model, OTR)
    for _ in range(2):  # the first training forward has the logits of a few positions
        output = model(**batch())
        with pytest.raises(NoLogitsError, match=MESSAGE):
            read(output.logits)


@pytest.mark.parametrize("name", ["llama", "gemma2, softcap", "mixtral, auxiliary loss", *MODELS])
@pytest.mark.parametrize("as_tuple", [False, True], ids=["output", "tuple"])
@pytest.mark.filterwarnings("ignore")
def test_no_output_has_a_number_of_the_placeholder(name, as_tuple):
    model, inputs = small(name) if name in MODELS else tiny(name), batch()
    model.config.use_cache = False
    want = model(**inputs, return_dict=not as_tuple)
    attach(model, SFT)
    for train in (True, True, False):
        output = model.train(train)(**inputs, return_dict=not as_tuple)
        assert isinstance(output, tuple) == as_tuple
        assert len(output) == len(want)
        assert output[0].shape == ()
        assert is_in(NO_LOGITS, output)
        shapes = [value.shape for value in pytree.tree_leaves(output) if isinstance(value, torch.Tensor)]
        assert all(not shape or (shape[-1] not in (1, V) and shape != (3, 11)) for shape in shapes), shapes


def test_what_traverses_outputs_passes_them_on():
    model = tiny("llama").bfloat16()
    attach(model, OTR)
    output = model(**batch())
    assert convert_to_fp32(output).logits is NO_LOGITS
    assert pytree.tree_map(lambda value: value, output).logits is NO_LOGITS
    assert copy.deepcopy(NO_LOGITS) is copy.copy(NO_LOGITS) is pickle.loads(pickle.dumps(NO_LOGITS)) is NO_LOGITS
    assert not hasattr(NO_LOGITS, "dtype")
    assert repr(NO_LOGITS) == "<no logits: computed with labels by OTR>"
    assert NO_LOGITS in {NO_LOGITS}


def rows(count=4):
    inputs = batch(rows=count)
    return [{name: value[i] for name, value in inputs.items()} for i in range(count)]


def trainer_of(model, tmp_path, kind=Trainer, **changes):
    functions = {name: changes.pop(name) for name in ("compute_metrics",) if name in changes}
    settings = {"output_dir": str(tmp_path), "max_steps": 2, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    settings |= {"save_strategy": "no", "per_device_train_batch_size": 2, "logging_steps": 1, "seed": 3} | changes
    data = rows()
    return kind(model, TrainingArguments(**settings), train_dataset=data, eval_dataset=data, **functions)


class AddsToTheLoss(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        loss = loss + 0.1 * outputs.logits.logsumexp(-1).pow(2).mean()
        return (loss, outputs) if return_outputs else loss


class MeasuresAccuracy(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        self.accuracy = (outputs.logits.argmax(-1) == inputs["labels"]).float().mean()
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("kind", [AddsToTheLoss, MeasuresAccuracy])
@pytest.mark.parametrize("settings", [{}, {"bf16": True}], ids=["float32", "autocast"])
def test_a_trainer_that_reads_them_is_refused(kind, settings, tmp_path):
    model = tiny("llama")
    attach(model, OTR)
    with pytest.raises(NoLogitsError, match=MESSAGE):
        trainer_of(model, tmp_path, kind, **settings).train()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_trainer_with_compute_metrics_gets_logits(when, tmp_path):
    """`after`: it is set on the constructed trainer."""
    model, seen = tiny("llama"), []

    def compute_metrics(prediction):
        seen.append(torch.tensor(prediction.predictions))
        return {"mean": float(prediction.predictions.mean())}

    with torch.no_grad():
        want = model.eval()(batch(rows=4)["input_ids"]).logits
    attach(model, OTR)
    trainer = trainer_of(model, tmp_path, **{"compute_metrics": compute_metrics} if when == "before" else {})
    if when == "after":
        assert "eval_mean" not in trainer.evaluate()
    trainer.compute_metrics = compute_metrics
    assert trainer.evaluate()["eval_mean"] == pytest.approx(want.mean().item(), rel=1e-4)
    torch.testing.assert_close(seen[-1], want)
    trainer.compute_metrics = None
    torch.testing.assert_close(torch.tensor(trainer.predict(rows()).predictions), want)


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({}, {"evaluate": set(), "predict": {V}}),
        ({"compute_metrics": lambda prediction: {}}, {"evaluate": {V}, "predict": {V}}),
        (
            {"compute_metrics": lambda prediction: {}, "prediction_loss_only": True},
            {"evaluate": set(), "predict": set()},
        ),
    ],
    ids=["plain", "compute_metrics", "prediction_loss_only"],
)
def test_evaluation_makes_logits_only_if_it_needs_them(settings, widths, tmp_path):
    model = tiny("llama")
    attach(model, OTR)
    trainer, original, made = trainer_of(model, tmp_path, **settings), model.lm_head.forward, set()

    def recorded(hidden):
        logits = original(hidden)
        made.add(logits.shape[-1])
        return logits

    model.lm_head.forward = recorded
    for name, run in (("evaluate", trainer.evaluate), ("predict", lambda: trainer.predict(rows()))):
        made.clear()
        run()
        assert made - {1} == widths[name], name


@pytest.mark.filterwarnings("ignore")  # Dynamo raises many warnings of its own
def test_a_compiled_model_has_none_and_trains_the_same():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR)
    want = loss_and_gradients(model, **inputs)[1]
    handle.start_step(0)
    compiled = torch.compile(model, backend="eager")
    output = compiled(**inputs)
    with pytest.raises(NoLogitsError, match=MESSAGE):
        output.logits.sum()
    model.zero_grad()
    output.loss.backward()
    assert_same_gradients({name: p.grad for name, p in model.named_parameters()}, want)


def test_they_are_real_without_labels_and_where_they_are_asked_for():
    model, inputs = tiny("llama"), batch()
    with torch.no_grad():
        want = model.eval()(inputs["input_ids"], inputs["attention_mask"]).logits
        handle = attach(model, OTRConfig(estimator="exact"))
        handle.evaluation_needs_logits = True
        torch.testing.assert_close(model(**inputs).logits, want)
        torch.testing.assert_close(model.train()(inputs["input_ids"], inputs["attention_mask"]).logits, want)
