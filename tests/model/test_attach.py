"""attach(): the loss and gradients of any causal language model are OTR's, under every wrapper and host setting."""

import copy
import pickle

import pytest
import torch

from otr_plugin import OTRConfig, attach
from otr_plugin.model.no_logits import NO_LOGITS

from .comparison import OTR, SFT, assert_same_gradients, loss_and_gradients, specification_by_autograd
from .families import FAMILIES, batch, tiny, tiny_vision_language


@pytest.mark.parametrize("name", FAMILIES)
def test_objective_sft_equals_the_models_own_loss(name):
    model, inputs = tiny(name), batch()
    for extra in ({}, {"num_items_in_batch": torch.tensor(50)}):
        want_loss, want = loss_and_gradients(model, **inputs, **extra)
        handle = attach(model, SFT)
        for _ in range(2):  # the first forward includes the first-step check, the second does not
            loss, gradients = loss_and_gradients(model, **inputs, **extra)
            torch.testing.assert_close(loss, want_loss, rtol=2e-6, atol=1e-6)
            assert_same_gradients(gradients, want)
        handle.detach()


@pytest.mark.parametrize("settings", [{"samples": 16}, {"estimator": "exact"}], ids=["sampled", "exact"])
@pytest.mark.parametrize("name", FAMILIES)
def test_objective_otr_equals_the_specification_by_autograd(name, settings):
    model, inputs, config = tiny(name), batch(), OTRConfig(**settings)
    handle = attach(model, config)
    loss, gradients = loss_and_gradients(model, **inputs)
    handle.start_step(0)
    metrics, want = specification_by_autograd(model, handle, inputs, config)
    assert_same_gradients(gradients, want)
    nll = metrics["nll"] / metrics["tokens"]
    assert loss >= nll - 1e-5  # the NLL, and the auxiliary loss that the model adds


def test_a_vision_language_model_trains_on_text():
    model, inputs = tiny_vision_language(), batch()
    want_loss, want = loss_and_gradients(model, **inputs)
    attach(model, SFT)
    loss, gradients = loss_and_gradients(model, **inputs)
    torch.testing.assert_close(loss, want_loss)
    assert_same_gradients(gradients, want)


def test_the_loss_has_the_value_of_the_nll_and_the_gradient_of_the_objective():
    model, inputs = tiny("llama"), batch()
    nll, nll_gradients = loss_and_gradients(model, **inputs)
    attach(model, OTR)
    loss, gradients = loss_and_gradients(model, **inputs)
    torch.testing.assert_close(loss, nll)
    assert (gradients["lm_head.weight"] - nll_gradients["lm_head.weight"]).abs().max() > 1e-3


def test_evaluation_is_plain_nll_without_whole_logits():
    model, inputs = tiny("llama").eval(), batch()
    want = model(**inputs).loss
    handle = attach(model, OTR)
    with torch.no_grad():
        output = model(**inputs)
    torch.testing.assert_close(output.loss, want.detach())
    assert output.logits is NO_LOGITS
    handle.evaluation_needs_logits = True
    assert model(**inputs).logits.shape == (3, 11, 97)


def test_without_labels_the_model_is_unchanged():
    model, inputs = tiny("llama"), batch()
    del inputs["labels"]
    want = model(**inputs).logits
    attach(model, OTR)
    assert torch.equal(model(**inputs).logits, want)
    model.eval()
    generated = model.generate(inputs["input_ids"], max_new_tokens=3, do_sample=False)
    assert generated.shape == (3, 14)


def test_attaching_again_replaces_the_first_handle():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    handle = attach(model, SFT)
    _, gradients = loss_and_gradients(model, **inputs)
    handle.detach()
    assert_same_gradients(gradients, loss_and_gradients(model, **inputs)[1])


def test_a_deep_copy_of_the_model_has_a_handle_of_its_own():
    model, inputs = tiny("llama"), batch()
    attach(model, SFT)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.mul_(2)
    loss, gradients = loss_and_gradients(twin, **inputs)
    assert model.lm_head.weight.grad is None
    twin._otr_handle.detach()
    want_loss, want = loss_and_gradients(twin, **inputs)
    torch.testing.assert_close(loss, want_loss)
    assert_same_gradients(gradients, want)
    assert not torch.equal(loss_and_gradients(model, **inputs)[0], loss)


def test_a_pickled_model_predicts_and_refuses_to_train_until_attached_again():
    model, inputs = tiny("gpt2, tied"), batch()  # transformers cannot pickle every family; this one it can
    attach(model, OTR)
    twin = pickle.loads(pickle.dumps(model))
    with pytest.raises(RuntimeError, match=r"Call attach\(\) last"):
        loss_and_gradients(twin, **inputs)
    assert twin.eval()(inputs["input_ids"]).logits.shape == (3, 11, 97)
    attach(twin.train(), OTR)
    assert_same_gradients(loss_and_gradients(twin, **inputs)[1], loss_and_gradients(model, **inputs)[1])


def test_a_checkpoint_contains_nothing_of_otr(tmp_path):
    model = tiny("llama")
    attach(model, OTR)
    assert not any("otr" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert "otr" not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    model, inputs = tiny("llama"), batch()
    model.enable_input_require_grads()
    attach(model, OTR)
    want = loss_and_gradients(model, **inputs)[1]
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    handle = attach(model, OTR)
    handle.start_step(0)
    assert_same_gradients(loss_and_gradients(model, **inputs)[1], want)


def test_under_autocast_objective_sft_equals_the_models_own_loss():
    model, inputs = tiny("llama"), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want_loss, want = loss_and_gradients(model, **inputs)
        attach(model, SFT)
        loss, gradients = loss_and_gradients(model, **inputs)
    torch.testing.assert_close(loss, want_loss, rtol=1e-3, atol=1e-3)
    assert_same_gradients(gradients, want, tolerance=0.03)


def test_resized_embeddings_are_supported():
    model, inputs = tiny("llama"), batch()
    model.resize_token_embeddings(130)
    want_loss, want = loss_and_gradients(model, **inputs)
    attach(model, SFT)
    loss, gradients = loss_and_gradients(model, **inputs)
    torch.testing.assert_close(loss, want_loss)
    assert_same_gradients(gradients, want)


@pytest.mark.filterwarnings("ignore")  # Dynamo raises many warnings of its own
def test_a_compiled_model_has_the_same_gradients():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    want = loss_and_gradients(model, **inputs)[1]
    handle = attach(model, OTR)
    compiled = torch.compile(model, backend="eager")
    assert attach(compiled, OTR).model is model
    del handle
    got = loss_and_gradients(compiled, **inputs)[1]
    assert_same_gradients({name.removeprefix("_orig_mod."): g for name, g in got.items()}, want)


def test_a_forward_that_does_not_call_the_head_is_refused():
    model, inputs = tiny("llama"), batch()

    def fused(self, input_ids, labels=None, **kwargs):
        hidden = self.model(input_ids).last_hidden_state
        logits = hidden @ self.lm_head.weight.T
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), logits

    type(model).forward, original = fused, type(model).forward
    try:
        attach(model, OTR)
        with pytest.raises(
            RuntimeError, match="LlamaForCausalLM was called with labels, but its forward did not call its output head"
        ):
            model(**inputs)
    finally:
        type(model).forward = original


def test_a_forward_that_does_not_call_the_loss_function_is_refused():
    model, inputs = tiny("llama"), batch()

    def without_loss(self, input_ids, labels=None, **kwargs):
        return self.lm_head(self.model(input_ids).last_hidden_state)

    type(model).forward, original = without_loss, type(model).forward
    try:
        attach(model, OTR)
        with pytest.raises(RuntimeError, match="its forward did not call its loss_function: something else computes"):
            model(**inputs)
    finally:
        type(model).forward = original


def test_a_forward_that_was_replaced_after_attach_is_refused():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    del model.forward
    with pytest.raises(
        RuntimeError, match="called its loss_function, but OTR's replacement of its forward did not run"
    ):
        model(**inputs)


def test_a_head_forward_that_was_replaced_after_attach_is_refused():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    del model.lm_head.forward
    with pytest.raises(
        RuntimeError,
        match="called its loss_function, but OTR's replacement of its output head's forward did not run",
    ):
        model(**inputs)


def test_an_offloaded_head_is_refused():
    model, inputs = tiny("llama"), batch()
    model.lm_head.to("meta")
    attach(model, OTR)  # allowed, because a host may load the weights after attach()
    with pytest.raises(ValueError, match="the weight of the model's output head is offloaded"):
        model(**inputs)


def test_a_head_that_is_no_plain_linear_layer_is_refused():
    class Doubling(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = tiny("llama")
    model.lm_head = Doubling(32, 97, bias=False)
    with pytest.raises(
        ValueError, match="output head is a Doubling, whose forward is not that of a plain linear layer"
    ):
        attach(model, OTR)


def test_a_model_that_is_no_causal_language_model_is_refused():
    with pytest.raises(ValueError, match="expected a causal language model of transformers, got Linear"):
        attach(torch.nn.Linear(2, 2), OTR)
    with pytest.raises(ValueError, match=r"got LlamaModel: get_output_embeddings\(\) returns no head"):
        attach(tiny("llama").model, OTR)


def test_a_top_k_above_the_vocabulary_is_refused():
    model = tiny("llama")
    vocabulary = model.config.vocab_size
    with pytest.raises(ValueError, match=rf"top_k is {vocabulary + 1}, but \w+ has {vocabulary} tokens: set"):
        attach(model, OTRConfig(top_k=vocabulary + 1))
    attach(model, OTRConfig(top_k=vocabulary)).detach()


def test_attaching_again_with_wrong_settings_leaves_the_first_handle_attached():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, SFT)
    with pytest.raises(ValueError, match="top_k is 98"):
        attach(model, OTRConfig(top_k=98))
    assert model._otr_handle is handle
    assert model(**inputs).logits is NO_LOGITS


def test_a_batch_without_a_trained_token_has_loss_zero():
    model, inputs = tiny("llama"), batch()
    inputs["labels"][:] = -100
    attach(model, OTR)
    for items in ({}, {"num_items_in_batch": 0}, {"num_items_in_batch": torch.tensor(0)}):
        loss, gradients = loss_and_gradients(model, **inputs, **items)
        assert loss == 0
        assert not any(gradient.any() for gradient in gradients.values())
        assert gradients, "the loss is not connected to the model"


@pytest.mark.parametrize("items", [0, 0.0, torch.tensor(0)], ids=["int", "float", "tensor"])
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_zero_items_with_trained_tokens_are_refused(train, items):
    model, inputs = tiny("llama").train(train), batch()
    trained = (inputs["labels"][:, 1:] != -100).sum()
    attach(model, OTR)
    with pytest.raises(ValueError, match=f"num_items_in_batch is 0, but the batch has {trained} trained tokens"):
        model(**inputs, num_items_in_batch=items)


def test_less_than_one_item_is_not_one():
    model, inputs = tiny("llama"), batch()
    want, wanted = loss_and_gradients(model, **inputs, num_items_in_batch=0.5)
    attach(model, SFT)
    loss, gradients = loss_and_gradients(model, **inputs, num_items_in_batch=0.5)
    torch.testing.assert_close(loss, want)
    assert_same_gradients(gradients, wanted)


@pytest.mark.parametrize("mask", [False, True], ids=["last positions of a batch", "mask over one row"])
def test_logits_to_keep_is_supported_with_labels_for_the_kept_positions(mask):
    """ms-swift passes logits_to_keep, and labels of as many positions."""
    model, inputs = tiny("llama"), batch(rows=1 if mask else 3)
    labels, keep = inputs["labels"][:, -6:], 6
    if mask:  # keep the positions that predict a trained token; the last position predicts nothing
        inputs["labels"][:, 0] = -100
        trained = inputs["labels"] != -100
        keep = torch.nn.functional.pad(trained[0, 1:], (0, 1), value=True)
        labels = torch.nn.functional.pad(inputs["labels"][trained].unsqueeze(0), (1, 0), value=-100)
    trimmed = inputs | {"labels": labels, "logits_to_keep": keep}
    want_loss, want = loss_and_gradients(model, **trimmed)
    attach(model, SFT)
    for _ in range(2):
        loss, gradients = loss_and_gradients(model, **trimmed)
        torch.testing.assert_close(loss, want_loss, rtol=2e-6, atol=1e-6)
        assert_same_gradients(gradients, want)
    with pytest.raises(RuntimeError, match="If logits_to_keep removes positions, remove their labels too"):
        model(**inputs | {"logits_to_keep": 6})
