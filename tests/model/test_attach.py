"""attach(): any causal language model's loss and gradients are OTR's, and without OTR its own."""

import copy
import pickle

import pytest
import torch

from otr_plugin import OTRConfig, attach
from otr_plugin.loss.reference import otr_loss_on_logits

from .families import FAMILIES, batch, tiny, tiny_vision_language

SFT = OTRConfig(objective="sft")
OTR = OTRConfig(samples=16)


def step(model, **inputs):
    """(loss, gradients by name) of one forward and backward."""
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output.loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same(got, want, tolerance=2e-5):
    assert got.keys() == want.keys()
    for name in want:
        size = want[name].abs().max().clamp(min=1e-4)
        assert (got[name] - want[name]).abs().max() / size < tolerance, name


def by_autograd(model, handle, inputs, config, num_items=None):
    """OTR on the model's own whole logits, through autograd; auxiliary losses added as the model adds them."""
    labels = torch.nn.functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:].reshape(-1)
    uniforms = handle.uniforms(len(labels), labels.device) if config.draws else None
    handle.detach()
    model.zero_grad()
    output = model(**{name: value for name, value in inputs.items() if name != "labels"})
    logits = output.logits.reshape(-1, output.logits.shape[-1])
    loss, metrics = otr_loss_on_logits(logits, labels, config, uniforms=uniforms, num_items=num_items)
    if getattr(output, "aux_loss", None) is not None:
        loss = loss + model.config.router_aux_loss_coef * output.aux_loss
    loss.backward()
    return metrics, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", FAMILIES)
def test_sft_is_the_models_own_loss(name):
    model, inputs = tiny(name), batch()
    for extra in ({}, {"num_items_in_batch": torch.tensor(50)}):
        want_loss, want = step(model, **inputs, **extra)
        handle = attach(model, SFT)
        for _ in range(2):  # with the first step's check, and without
            loss, gradients = step(model, **inputs, **extra)
            torch.testing.assert_close(loss, want_loss, rtol=2e-6, atol=1e-6)
            same(gradients, want)
        handle.detach()


@pytest.mark.parametrize("settings", [{"samples": 16}, {"estimator": "exact"}], ids=["sampled", "exact"])
@pytest.mark.parametrize("name", FAMILIES)
def test_otr_is_autograds_on_whole_logits(name, settings):
    model, inputs, config = tiny(name), batch(), OTRConfig(**settings)
    handle = attach(model, config)
    loss, gradients = step(model, **inputs)
    handle.start_step(0)
    metrics, want = by_autograd(model, handle, inputs, config)
    same(gradients, want)
    nll = metrics["nll"] / metrics["tokens"]
    assert loss >= nll - 1e-5  # the NLL, plus what the model adds


def test_a_vision_language_models_text_path():
    model, inputs = tiny_vision_language(), batch()
    want_loss, want = step(model, **inputs)
    attach(model, SFT)
    loss, gradients = step(model, **inputs)
    torch.testing.assert_close(loss, want_loss)
    same(gradients, want)


def test_the_loss_that_is_seen_is_the_nll_and_its_gradient_otrs():
    model, inputs = tiny("llama"), batch()
    nll, of_nll = step(model, **inputs)
    attach(model, OTR)
    loss, gradients = step(model, **inputs)
    torch.testing.assert_close(loss, nll)
    assert (gradients["lm_head.weight"] - of_nll["lm_head.weight"]).abs().max() > 1e-3


def test_evaluation_is_plain_nll_without_whole_logits():
    model, inputs = tiny("llama").eval(), batch()
    want = model(**inputs).loss
    handle = attach(model, OTR)
    with torch.no_grad():
        output = model(**inputs)
    torch.testing.assert_close(output.loss, want.detach())
    assert output.logits.shape == (3, 11, 1)
    handle.evaluation_needs_logits = True
    assert model(**inputs).logits.shape == (3, 11, 97)


def test_without_labels_it_is_the_model():
    model, inputs = tiny("llama"), batch()
    del inputs["labels"]
    want = model(**inputs).logits
    attach(model, OTR)
    assert torch.equal(model(**inputs).logits, want)
    model.eval()
    generated = model.generate(inputs["input_ids"], max_new_tokens=3, do_sample=False)
    assert generated.shape == (3, 14)


def test_draws_are_keyed_by_seed_step_micro_batch_and_rank():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR, seed=1)

    def gradient():
        return step(model, **inputs)[1]["lm_head.weight"]

    before = torch.get_rng_state()
    handle.start_step(5)
    first, second = gradient(), gradient()
    assert torch.equal(before, torch.get_rng_state()), "the host's random stream moved"
    handle.start_step(6)
    other_step = gradient()
    handle.start_step(5)
    assert torch.equal(first, gradient())
    handle.start_step(5)
    handle.rank = 1
    other_rank = gradient()
    handle.rank = 0
    handle.start_step(5)
    handle.seed = 2
    other_seed = gradient()
    for other in (second, other_step, other_rank, other_seed):
        assert not torch.equal(first, other)


def test_metrics_are_averages_since_they_were_taken():
    model, handle_inputs = tiny("llama"), [batch(seed=1), batch(rows=2, seed=2)]
    handle = attach(model, OTRConfig(estimator="exact"))
    totals = {}
    for inputs in handle_inputs:
        step(model, **inputs)
    got = handle.take_metrics()
    for inputs in handle_inputs:
        handle = attach(model, OTRConfig(estimator="exact"))
        metrics, _ = by_autograd(model, handle, inputs, handle.config)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0) + value.item()
    for name, value in got.items():
        assert value == pytest.approx(totals[name.removeprefix("otr/")] / totals["tokens"], rel=1e-4), name
    assert attach(model).take_metrics() == {}


def test_detach_leaves_the_model_as_it_was():
    model = tiny("llama")
    before = dict(model.__dict__), dict(model.lm_head.__dict__)
    attach(model, OTR).detach()
    assert dict(model.__dict__) == before[0]
    assert dict(model.lm_head.__dict__) == before[1]


def test_attaching_again_replaces():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    handle = attach(model, SFT)
    _, gradients = step(model, **inputs)
    handle.detach()
    same(gradients, step(model, **inputs)[1])


def test_a_copy_is_attached_to_itself():
    model, inputs = tiny("llama"), batch()
    attach(model, SFT)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
    loss, gradients = step(twin, **inputs)
    assert model.lm_head.weight.grad is None
    twin._otr_handle.detach()
    want_loss, want = step(twin, **inputs)
    torch.testing.assert_close(loss, want_loss)
    same(gradients, want)
    assert not torch.equal(step(model, **inputs)[0], loss)


def test_a_pickled_model_predicts_but_does_not_train_as_if_attached():
    model, inputs = tiny("gpt2, tied"), batch()  # of those here, one that transformers lets pickle
    attach(model, OTR)
    twin = pickle.loads(pickle.dumps(model))
    with pytest.raises(RuntimeError, match=r"Call attach\(\) last"):
        step(twin, **inputs)
    assert twin.eval()(inputs["input_ids"]).logits.shape == (3, 11, 97)
    attach(twin.train(), OTR)
    same(step(twin, **inputs)[1], step(model, **inputs)[1])


def test_saving(tmp_path):
    model = tiny("llama")
    attach(model, OTR)
    assert not any("otr" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert "otr" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    model, inputs = tiny("llama"), batch()
    model.enable_input_require_grads()
    attach(model, OTR)
    want = step(model, **inputs)[1]
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    handle = attach(model, OTR)
    handle.start_step(0)
    same(step(model, **inputs)[1], want)


def test_autocast():
    model, inputs = tiny("llama"), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want_loss, want = step(model, **inputs)
        attach(model, SFT)
        loss, gradients = step(model, **inputs)
    torch.testing.assert_close(loss, want_loss, rtol=1e-3, atol=1e-3)
    same(gradients, want, tolerance=0.03)


def test_resized_embeddings():
    model, inputs = tiny("llama"), batch()
    model.resize_token_embeddings(130)
    want_loss, want = step(model, **inputs)
    attach(model, SFT)
    loss, gradients = step(model, **inputs)
    torch.testing.assert_close(loss, want_loss)
    same(gradients, want)


@pytest.mark.filterwarnings("ignore")  # Dynamo's own, of many kinds
def test_a_compiled_model():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    want = step(model, **inputs)[1]
    handle = attach(model, OTR)
    compiled = torch.compile(model, backend="eager")
    assert attach(compiled, OTR).model is model
    del handle
    got = step(compiled, **inputs)[1]
    same({name.removeprefix("_orig_mod."): g for name, g in got.items()}, want)


def test_what_goes_past_the_head_is_refused():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)

    def fused(self, input_ids, labels=None, **kwargs):
        hidden = self.model(input_ids).last_hidden_state
        logits = hidden @ self.lm_head.weight.T
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits

    handle = model._otr_handle
    handle.detach()
    type(model).forward, own = fused, type(model).forward
    try:
        attach(model, OTR)
        with pytest.raises(
            RuntimeError, match="LlamaForCausalLM was called with labels, but its forward went past its"
        ):
            model(**inputs)
    finally:
        type(model).forward = own


def test_a_forward_that_was_replaced_after_attach_is_refused():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    del model.forward
    with pytest.raises(RuntimeError, match="asks for its loss, but OTR did not see the forward that led to it"):
        model(**inputs)


def test_a_head_that_does_more_is_refused_on_the_first_step():
    model, inputs = tiny("granite, logits_scaling"), batch()
    handle = attach(model, OTR)
    handle.finish = handle.finish._replace(logit_scale=1.0)
    with pytest.raises(
        RuntimeError, match=r"differ from the model's own by .*the NLL is \d+\.\d+ by OTR and \d+\.\d+ by the model"
    ):
        model(**inputs)


def test_the_check_waits_for_a_batch_that_trains_something():
    model, inputs = tiny("granite, logits_scaling"), batch()
    handle = attach(model, OTR)
    handle.finish = handle.finish._replace(logit_scale=1.0)
    model(**inputs | {"labels": torch.full_like(inputs["labels"], -100)})
    with pytest.raises(RuntimeError, match="differ from the model's own by"):
        model(**inputs)


def test_an_offloaded_head_is_refused_with_the_reason():
    model, inputs = tiny("llama"), batch()
    model.lm_head.to("meta")
    attach(model, OTR)  # a host may fill it later
    with pytest.raises(ValueError, match="the weight of the model's output head is on no device: it is offloaded"):
        model(**inputs)


def test_an_unknown_head_is_refused_with_the_reason():
    class Doubling(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = tiny("llama")
    model.lm_head = Doubling(32, 97, bias=False)
    with pytest.raises(ValueError, match="the model's output head is a Doubling, whose forward is not a plain linear"):
        attach(model, OTR)


def test_what_is_no_causal_language_model_is_refused():
    with pytest.raises(ValueError, match="expected a causal language model of transformers, got Linear"):
        attach(torch.nn.Linear(2, 2), OTR)
    with pytest.raises(ValueError, match=r"got LlamaModel: get_output_embeddings\(\) gives no head"):
        attach(tiny("llama").model, OTR)


def test_a_batch_without_a_trained_token_has_loss_zero():
    model, inputs = tiny("llama"), batch()
    inputs["labels"][:] = -100
    attach(model, OTR)
    for items in ({}, {"num_items_in_batch": 0}, {"num_items_in_batch": torch.tensor(0)}):
        loss, gradients = step(model, **inputs, **items)
        assert loss == 0
        assert not any(gradient.any() for gradient in gradients.values())
        assert gradients, "the loss is not connected to the model"


@pytest.mark.parametrize("mask", [False, True], ids=["the last of a batch", "a mask of one row"])
def test_hosts_may_trim_what_goes_through_the_head(mask):
    """As ms-swift does: logits_to_keep, and labels of as many positions."""
    model, inputs = tiny("llama"), batch(rows=1 if mask else 3)
    labels, keep = inputs["labels"][:, -6:], 6
    if mask:  # what is trained, moved to where it is predicted; the last position predicts nothing
        inputs["labels"][:, 0] = -100
        trained = inputs["labels"] != -100
        keep = torch.nn.functional.pad(trained[0, 1:], (0, 1), value=True)
        labels = torch.nn.functional.pad(inputs["labels"][trained].unsqueeze(0), (1, 0), value=-100)
    trimmed = inputs | {"labels": labels, "logits_to_keep": keep}
    want_loss, want = step(model, **trimmed)
    attach(model, SFT)
    for _ in range(2):
        loss, gradients = step(model, **trimmed)
        torch.testing.assert_close(loss, want_loss, rtol=2e-6, atol=1e-6)
        same(gradients, want)
    with pytest.raises(RuntimeError, match="where logits_to_keep leaves positions out, leave out their labels"):
        model(**inputs | {"logits_to_keep": 6})


def test_a_host_may_make_more_of_the_answer():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR)
    asked = []
    handle.transform_output = lambda call, output: asked.append(call.sums) or {"loss": output.loss}
    for train in (True, False):  # counted for the call alone, in evaluation too
        output = model.train(train)(**inputs)
        assert list(output) == ["loss"]
        assert asked[-1]["tokens"] == (inputs["labels"][:, 1:] != -100).sum()
    assert model(inputs["input_ids"]).logits.shape[-1] == model.config.vocab_size
    assert len(asked) == 2
