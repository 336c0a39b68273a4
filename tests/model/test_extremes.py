"""An attached model on the smallest batches and vocabularies, beside the model's own loss."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from otr_plugin import OTRConfig, attach

SETTINGS = [{"objective": "sft"}, {"samples": 8}, {"estimator": "exact"}, {"objective": "dft"}, {"objective": "eaft"}]


def model_of(vocabulary):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    sizes |= {"num_key_value_heads": 1, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes)).train()


def gradients(model, ids, labels, **more):
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels, **more).loss
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("vocabulary", [1, 2, 100_000])
@pytest.mark.parametrize("length", [2, 3])
def test_sft_is_the_models_own_loss(vocabulary, length):
    model = model_of(vocabulary)
    ids = torch.arange(2 * length).view(2, length) * 7 % vocabulary
    own, own_gradients = gradients(model, ids, ids)
    attach(model, OTRConfig(objective="sft"))
    ours, our_gradients = gradients(model, ids, ids)
    assert ours == pytest.approx(own, rel=2e-6, abs=1e-7)
    for name, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, own_gradients[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("ids", "labels"),
    [
        ([[3]], [[3]]),  # one token has no next one
        ([[3], [4]], [[3], [4]]),
        ([[3, 4, 5]], [[-100, -100, -100]]),
        ([[3, 4, 5]], [[3, -100, -100]]),  # the first label of a row is nobody's next token
    ],
    ids=["one token", "two rows of one token", "no label", "only the first label"],
)
@pytest.mark.parametrize("num_items", [None, 0, 5, torch.tensor(0)], ids=str)
def test_nothing_to_train_is_a_loss_of_0(ids, labels, num_items, settings):
    """The model's own loss is 0 / 0 there, unless num_items_in_batch is a number above 0."""
    model = model_of(10)
    handle = attach(model, OTRConfig(**settings))
    more = {} if num_items is None else {"num_items_in_batch": num_items}
    loss, found = gradients(model, torch.tensor(ids), torch.tensor(labels), **more)
    assert loss == 0
    assert all(not gradient.any() for gradient in found.values())
    assert all(not math.isinf(value) for value in handle.take_metrics().values())
    model.eval()
    assert model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss.item() == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_batch_without_a_label_among_others_adds_nothing(settings):
    """Accumulated, as a host does: the first forward, which is checked, has no label."""
    model = model_of(10)
    attach(model, OTRConfig(**settings), seed=1)
    ids, nothing = torch.tensor([[3, 4, 5]]), torch.full((1, 3), -100)
    parts = [gradients(model, ids, labels, num_items_in_batch=2)[0] for labels in (nothing, ids)]
    assert parts[0] == 0
    assert math.isfinite(parts[1])
    assert parts[1] > 0


@pytest.mark.parametrize("label", [10, 10**6, -1, -101])
def test_a_label_outside_the_vocabulary_is_an_error(label):
    model = model_of(10)
    attach(model)
    with pytest.raises(ValueError, match=f"labels: expected 0 to 9, or -100 .*, got {label} at position 1"):
        model(input_ids=torch.tensor([[3, 4, 5]]), labels=torch.tensor([[3, 4, label]]))
