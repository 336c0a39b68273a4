"""docs/attached-model.md, line by line: what an attached model gives, in training, in evaluation, and in a Trainer."""

import copy
import pickle
import re

import pytest
import torch
from transformers import Trainer, default_data_collator

from benchmarks.paths import ROOT
from otr_plugin import OTRConfig, attach
from otr_plugin.model.no_logits import NO_LOGITS, NoLogitsError

from .comparison import OTR, SFT, assert_same_gradients, loss_and_gradients, specification_by_autograd
from .families import V, batch, tiny
from .test_no_logits import AddsToTheLoss, MeasuresAccuracy, rows, trainer_of

INPUTS = batch()
WITHOUT_LABELS = {name: value for name, value in INPUTS.items() if name != "labels"}
WEIGHTS = torch.rand(INPUTS["labels"].shape, generator=torch.Generator().manual_seed(5)) * 3
WEIGHTED = INPUTS | {"token_weights": WEIGHTS}
PAGE = (ROOT / "docs/attached-model.md").read_text()


def test_every_line_of_the_page_has_a_test():
    lines = [line for line in re.findall(r"^\| ([^|]+?) +\|", PAGE, re.MULTILINE) if line != "line"]
    assert len(lines) == len(set(lines)) > 20
    tests = {name for name in globals() if name.startswith("test_")} - {"test_every_line_of_the_page_has_a_test"}
    assert {f"test_{line.replace(' ', '_').replace('-', '_').lower()}" for line in lines} == tests


@pytest.fixture
def plain():
    return tiny("llama")


@pytest.fixture
def model():
    model = tiny("llama")
    attach(model, OTR, seed=3)
    return model


# In training mode


def test_loss_in_training(model, plain):
    loss, gradients = loss_and_gradients(model, **INPUTS)
    torch.testing.assert_close(loss, plain(**INPUTS).loss.detach())
    model._otr_handle.start_step(0)
    assert_same_gradients(gradients, specification_by_autograd(model, model._otr_handle, INPUTS, OTR)[1])


def test_loss_with_num_items_in_batch(model, plain):
    loss, gradients = loss_and_gradients(model, **INPUTS, num_items_in_batch=50)
    torch.testing.assert_close(loss, plain(**INPUTS, num_items_in_batch=50).loss.detach())
    model._otr_handle.start_step(0)
    assert_same_gradients(gradients, specification_by_autograd(model, model._otr_handle, INPUTS, OTR, 50)[1])


@pytest.mark.parametrize("shifted", [False, True])
def test_token_weights(model, shifted):
    handle, inputs = model._otr_handle, WEIGHTED
    if shifted:
        inputs = INPUTS | {"token_weights": torch.nn.functional.pad(WEIGHTS, (0, 1))[:, 1:]}
        inputs |= {"shift_labels": torch.nn.functional.pad(INPUTS["labels"], (0, 1), value=-100)[:, 1:]}
    loss, gradients = loss_and_gradients(model, **inputs, num_items_in_batch=50)
    got = handle.take_metrics()
    handle.start_step(0)
    metrics, want = specification_by_autograd(model, handle, WEIGHTED, OTR, 50)
    torch.testing.assert_close(loss, metrics.pop("weighted_nll") / 50)
    assert_same_gradients(gradients, want)
    assert got.keys() == {f"otr/{name}" for name in metrics} - {"otr/tokens"}
    for name in ("nll", "objective", "weight"):
        assert got[f"otr/{name}"] == pytest.approx((metrics[name] / metrics["tokens"]).item(), rel=1e-5)


def test_token_weights_of_another_shape(model):
    with pytest.raises(ValueError, match=r"otr: token_weights has shape \[.*\], and the labels have shape"):
        model(**INPUTS, token_weights=WEIGHTS[:, 1:])


def test_loss_of_a_batch_without_trained_tokens(model):
    masked = {**INPUTS, "labels": torch.full_like(INPUTS["labels"], -100)}
    loss, gradients = loss_and_gradients(model, **masked)
    assert loss == 0
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    assert not any(gradient.any() for gradient in gradients.values())


def test_logits_with_labels(model):
    for _ in range(2):
        logits = model(**INPUTS).logits
        assert logits is NO_LOGITS
        with pytest.raises(NoLogitsError, match="the logits of this forward do not exist"):
            logits.float()


def test_logits_without_labels_in_training(model, plain):
    logits = model(**WITHOUT_LABELS).logits
    assert torch.equal(logits, plain(**WITHOUT_LABELS).logits)
    assert logits.requires_grad
    assert model._otr_handle.micro_batch == 0
    assert model._otr_handle.take_metrics() == {}


def test_hidden_states_in_training(model, plain):
    got, want = (one(**INPUTS, output_hidden_states=True).hidden_states for one in (model, plain))
    assert len(got) == len(want) == 3
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_tuples(model, plain):
    arguments = {**INPUTS, "return_dict": False, "output_hidden_states": True, "use_cache": False}
    got, want = model(**arguments), plain(**arguments)
    assert len(got) == len(want)
    torch.testing.assert_close(got[0], want[0])
    assert got[1] is NO_LOGITS
    assert all(torch.equal(a, b) for a, b in zip(got[2], want[2], strict=True))


def test_the_random_numbers_of_the_host(model):
    state = torch.get_rng_state()
    model(**INPUTS).loss.backward()
    assert torch.equal(state, torch.get_rng_state())


# In evaluation mode


def test_loss_in_evaluation(model, plain):
    made = []
    model.eval().lm_head.register_forward_hook(lambda module, inputs, output: made.append(output.shape[-1]))
    torch.testing.assert_close(model(**INPUTS).loss, plain.eval()(**INPUTS).loss)
    assert made == [1]


def test_token_weights_in_evaluation(model, plain):
    logits = plain.eval()(**INPUTS).logits[:, :-1].flatten(0, 1)
    labels = INPUTS["labels"][:, 1:].flatten()
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    want = (nll * WEIGHTS[:, 1:].flatten()).sum() / (labels != -100).sum()
    torch.testing.assert_close(model.eval()(**WEIGHTED).loss, want)
    model._otr_handle.evaluation_needs_logits = True
    with pytest.raises(ValueError, match="otr: this evaluation needs whole logits"):
        model(**WEIGHTED)


def test_logits_with_labels_in_evaluation(model):
    with pytest.raises(NoLogitsError, match=r"handle\.evaluation_needs_logits = True"):
        model.eval()(**INPUTS).logits.argmax(-1)


def test_logits_in_evaluation_on_request(model, plain):
    model._otr_handle.evaluation_needs_logits = True
    got, want = model.eval()(**INPUTS), plain.eval()(**INPUTS)
    assert torch.equal(got.logits, want.logits)
    assert torch.equal(got.loss, want.loss)


def test_logits_without_labels_in_evaluation(model, plain):
    assert torch.equal(model.eval()(**WITHOUT_LABELS).logits, plain.eval()(**WITHOUT_LABELS).logits)


def test_generate(model, plain):
    settings = {"max_new_tokens": 5, "do_sample": False}
    got, want = (one.eval().generate(**WITHOUT_LABELS, **settings) for one in (model, plain))
    assert torch.equal(got, want)


# In a Trainer


def test_evaluate(model, plain, tmp_path):
    want = trainer_of(plain, tmp_path).evaluate()["eval_loss"]
    assert trainer_of(model, tmp_path).evaluate()["eval_loss"] == pytest.approx(want, rel=2e-6)


def predictions_in_compute_metrics(model, tmp_path):
    seen = []
    trainer = trainer_of(model, tmp_path)
    trainer.compute_metrics = lambda prediction: seen.append(torch.tensor(prediction.predictions)) or {}
    trainer.evaluate()
    return seen[0]


def test_evaluate_with_compute_metrics(model, plain, tmp_path):
    got, want = (predictions_in_compute_metrics(one, tmp_path) for one in (model, plain))
    assert got.shape[-1] == V
    assert torch.equal(got, want)


def test_predict(model, plain, tmp_path):
    got, want = (trainer_of(one, tmp_path).predict(rows()).predictions for one in (model, plain))
    assert got.shape[-1] == V
    assert (got == want).all()


def test_prediction_loss_only(model, tmp_path):
    widths = set()
    model.lm_head.register_forward_hook(lambda module, inputs, output: widths.add(output.shape[-1]))
    trainer = trainer_of(model, tmp_path, prediction_loss_only=True, compute_metrics=lambda prediction: {})
    trainer.evaluate()
    assert trainer.predict(rows()).predictions is None
    assert widths == {1}


def test_token_weights_of_a_data_collator(model, tmp_path):
    attach(model, SFT)
    trainer = trainer_of(model, tmp_path)

    def collate(examples):
        batch = default_data_collator(examples)
        return batch | {"token_weights": torch.full(batch["labels"].shape, 2.0)}

    trainer.data_collator = collate
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        assert entry["loss"] == pytest.approx(2 * entry["otr/nll"], rel=1e-5)
        assert entry["otr/weight"] == pytest.approx(2)


class Scales(Trainer):
    def compute_loss(self, *args, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(*args, return_outputs=True, **kwargs)
        return (0.5 * loss, outputs) if return_outputs else 0.5 * loss


class AddsParameters(Trainer):
    def compute_loss(self, model, *args, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, *args, return_outputs=True, **kwargs)
        loss = loss + 0.01 * model.lm_head.weight.square().sum()
        return (loss, outputs) if return_outputs else loss


class FromLogits(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, **_):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def gradients_of_the_first_step(model, tmp_path, kind):
    """What the optimiser of one step gets, with the trainer's clipping off."""
    trainer, seen = trainer_of(model, tmp_path, kind, max_steps=1, max_grad_norm=0), {}
    trainer.create_optimizer()
    step = trainer.optimizer.step

    def recorded(*args, **kwargs):
        seen.update({name: p.grad.clone() for name, p in model.named_parameters()})
        return step(*args, **kwargs)

    trainer.optimizer.step = recorded
    trainer.train()
    return seen


def attached_copy(plain, config=OTR):
    copied = copy.deepcopy(plain)
    attach(copied, config, seed=3)
    return copied


def test_a_subclass_that_scales_the_loss(plain, tmp_path):
    want = gradients_of_the_first_step(attached_copy(plain), tmp_path, Trainer)
    got = gradients_of_the_first_step(attached_copy(plain), tmp_path, Scales)
    assert_same_gradients(got, {name: gradient / 2 for name, gradient in want.items()})


def test_a_subclass_that_adds_a_loss_of_parameters(plain, tmp_path):
    want = gradients_of_the_first_step(attached_copy(plain), tmp_path, Trainer)
    got = gradients_of_the_first_step(attached_copy(plain), tmp_path, AddsParameters)
    want["lm_head.weight"] += 0.02 * plain.lm_head.weight.detach()
    assert_same_gradients(got, want)


def test_a_subclass_that_adds_a_loss_of_logits(model, tmp_path):
    with pytest.raises(NoLogitsError, match="the logits of this forward do not exist"):
        trainer_of(model, tmp_path, AddsToTheLoss).train()


def test_a_subclass_that_measures_logits(model, tmp_path):
    with pytest.raises(NoLogitsError, match="the logits of this forward do not exist"):
        trainer_of(model, tmp_path, MeasuresAccuracy).train()


def test_a_subclass_that_computes_the_loss_from_logits(model, tmp_path):
    with pytest.raises(RuntimeError, match="an optimiser step was taken without OTR's loss"):
        trainer_of(model, tmp_path, FromLogits).train()


def test_compute_loss_func_and_label_smoothing(model, tmp_path):
    with pytest.raises(ValueError, match="the trainer's label_smoother would compute the loss"):
        trainer_of(model, tmp_path, label_smoothing_factor=0.1).train()
    trainer = trainer_of(model, tmp_path)
    trainer.compute_loss_func = lambda *args, **kwargs: torch.zeros(())
    with pytest.raises(ValueError, match="the trainer's compute_loss_func would compute the loss"):
        trainer.train()


# Copies, saving and detach


def test_deep_copy(model):
    twin = copy.deepcopy(model)
    handle = twin._otr_handle
    assert handle is not model._otr_handle
    assert handle.model is twin
    assert (handle.config, handle.seed, handle.disconnect) == (OTR, 3, None)
    assert_same_gradients(loss_and_gradients(twin, **INPUTS)[1], loss_and_gradients(model, **INPUTS)[1])


def test_pickle():
    model = tiny("gpt2, tied")  # transformers cannot pickle every family
    attach(model, OTR)
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin.eval()(**WITHOUT_LABELS).logits, model.eval()(**WITHOUT_LABELS).logits)
    with pytest.raises(RuntimeError, match=r"Call attach\(\) last"):
        twin.train()(**INPUTS)
    attach(twin, OTR)
    assert twin(**INPUTS).loss.requires_grad


def test_state_dict_and_save_pretrained(model, plain, tmp_path):
    assert model.state_dict().keys() == plain.state_dict().keys()
    for one, folder in ((model, "attached"), (plain, "plain")):
        one.save_pretrained(tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert sorted(path.name for path in (tmp_path / "attached").iterdir()) == files
    for name in files:
        assert (tmp_path / "attached" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes(), name


def test_attach_again(model, plain):
    first = model._otr_handle
    second = attach(model, SFT)
    assert model._otr_handle is second is not first
    first.detach()
    assert_same_gradients(loss_and_gradients(model, **INPUTS)[1], loss_and_gradients(plain, **INPUTS)[1])


def test_detach(plain):
    model = tiny("llama")
    before = dict(vars(model)), dict(vars(model.lm_head))
    handle = attach(model, OTRConfig())
    model(**INPUTS)
    handle.detach()
    handle.detach()
    assert (dict(vars(model)), dict(vars(model.lm_head))) == before
    want, got = plain(**INPUTS), model(**INPUTS)
    assert torch.equal(got.loss, want.loss)
    assert torch.equal(got.logits, want.logits)
