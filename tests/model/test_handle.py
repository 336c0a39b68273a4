"""Handle: draws, metrics, steps and detaching, as a host uses them."""

import copy

import pytest
import torch

from otr_plugin import OTRConfig, attach
from otr_plugin.model.handle import Handle

from .comparison import OTR, loss_and_gradients, specification_by_autograd
from .families import batch, tiny


def test_draws_are_keyed_by_seed_step_micro_batch_and_rank():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR, seed=1)

    def gradient():
        return loss_and_gradients(model, **inputs)[1]["lm_head.weight"]

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


def test_metrics_are_averages_since_they_were_last_taken():
    model, all_inputs = tiny("llama"), [batch(seed=1), batch(rows=2, seed=2)]
    handle = attach(model, OTRConfig(estimator="exact"))
    totals = {}
    for inputs in all_inputs:
        loss_and_gradients(model, **inputs)
    got = handle.take_metrics()
    for inputs in all_inputs:
        handle = attach(model, OTRConfig(estimator="exact"))
        metrics, _ = specification_by_autograd(model, handle, inputs, handle.config)
        for name, value in metrics.items():
            totals[name] = totals.get(name, 0) + value.item()
    for name, value in got.items():
        assert value == pytest.approx(totals[name.removeprefix("otr/")] / totals["tokens"], rel=1e-4), name
    assert attach(model).take_metrics() == {}


def test_a_step_without_otrs_loss_is_an_error():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR)
    missing = "an optimiser step was taken without OTR's loss: the model was not called with labels in training mode"

    handle.start_step(0)
    model(inputs["input_ids"])  # a training forward without labels: the trainer computes the loss
    with pytest.raises(RuntimeError, match=missing):
        handle.require_loss_in_step()
    model(**inputs)
    handle.require_loss_in_step()

    handle.start_step(1)
    model.eval()(**inputs)  # an evaluation does not count
    with pytest.raises(RuntimeError, match=missing):
        handle.require_loss_in_step()


def test_detach_restores_the_model():
    model = tiny("llama")
    before = dict(model.__dict__), dict(model.lm_head.__dict__)
    attach(model, OTR).detach()
    assert dict(model.__dict__) == before[0]
    assert dict(model.lm_head.__dict__) == before[1]


def test_detach_restores_a_loss_function_that_was_assigned():
    model = tiny("llama")
    model.loss_function = assigned = lambda **_: torch.zeros(())
    attach(model, OTR).detach()
    assert model.loss_function is assigned


def test_detach_calls_on_detach_once_and_a_second_detach_does_nothing():
    model, calls = tiny("llama"), []
    first = attach(model, OTR)
    first.on_detach.append(lambda: calls.append("first"))
    second = attach(model, OTR)
    second.on_detach.append(lambda: calls.append("second"))
    assert calls == ["first"], "attaching again detaches the first handle"
    first.detach()
    assert calls == ["first"]
    assert model._otr_handle is second, "a handle that was detached before removed the one that replaced it"
    second.detach()
    second.detach()
    assert calls == ["first", "second"]
    assert not hasattr(model, "_otr_handle")


def test_a_copy_is_attached_until_its_own_detach():
    model, calls = tiny("llama"), []
    handle = attach(model, OTR)
    handle.on_detach.append(lambda: calls.append("detached"))
    copied = copy.deepcopy(model)._otr_handle
    assert {handle, copied} <= set(Handle.attached)
    handle.detach()
    assert calls == ["detached"]
    assert handle not in Handle.attached
    assert copied in Handle.attached
    copied.detach()
    assert copied not in Handle.attached
    assert calls == ["detached", "detached"]


def test_transform_output_replaces_the_output_of_forwards_that_computed_the_loss():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR)
    calls = []
    handle.transform_output = lambda call, output: calls.append(call.sums) or {"loss": output.loss}
    for train in (True, False):  # the sums are those of one call, in evaluation too
        output = model.train(train)(**inputs)
        assert list(output) == ["loss"]
        assert calls[-1]["tokens"] == (inputs["labels"][:, 1:] != -100).sum()
    assert model(inputs["input_ids"]).logits.shape[-1] == model.config.vocab_size
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"samples": 16},
            "objective otr (16 samples, temperature 1.3, beta -0.1, baseline none), seed 0",
        ),
        (
            {"samples": 16, "top_k": 5, "top_p": 0.9, "beta": 0.5},
            "objective otr (16 samples, temperature 1.3, beta 0.5, baseline none, top_k 5, top_p 0.9), seed 0",
        ),
        (
            {"estimator": "exact", "nll_weight": 0.1},
            "objective otr (exact, temperature 1.3, beta -0.1, baseline none) + 0.1 NLL",
        ),
        ({"objective": "dft"}, "objective dft"),
        ({"objective": "sft"}, "objective sft"),
    ],
    ids=["sampled", "every setting", "exact", "dft", "sft"],
)
def test_describe_names_the_objective_and_the_head(settings, text):
    handle = attach(tiny("llama"), OTRConfig(**settings))
    assert handle.describe() == (
        f"OTR is active: {text}, kernel torch, chunk_tokens auto, computed inside the trained Linear head of "
        "LlamaForCausalLM, otr-plugin 0.1.0"
    )


def test_describe_names_what_will_run():
    handle = attach(tiny("llama"), OTRConfig(chunk_tokens=64, kernel="triton"), seed=7)
    assert "seed 7, kernel triton, chunk_tokens 64, " in handle.describe()


@pytest.mark.parametrize("update", [{"objective": "new"}, {"estimator": "new"}], ids=["objective", "estimator"])
def test_describe_raises_for_an_unknown_objective_or_estimator(update):
    handle = attach(tiny("llama"))
    handle.config = handle.config.model_copy(update=update)
    with pytest.raises(NotImplementedError, match=f"{next(iter(update))} 'new' is not implemented"):
        handle.describe()
