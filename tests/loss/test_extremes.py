"""The smallest and the largest problems: no label, one token, one position, vocabularies of 1, 2 and 1,000,000."""

import pytest
import torch

from otr_plugin import OTRConfig, otr_loss

from .problems import actual, config_of, error, problem, truth, units

SETTINGS = {
    "sampled": {},
    "sampled, mean": {"baseline": "mean"},
    "sampled, top_p": {"top_p": 0.9},
    "exact": {"estimator": "exact"},
    "dft, nll": {"objective": "dft", "nll_weight": 0.5},
    "power": {"objective": "power", "alpha": 0.5},
    "eaft, nll": {"objective": "eaft", "nll_weight": 0.5},
    "sft": {"objective": "sft"},
}


def same_as_the_truth(p, settings):
    config = config_of(settings, 32)
    want, got = truth(p, config), actual(p, config, torch.float32)
    bound = 1e-5  # the draws are the same, and float32 rounds sums over a vocabulary of any size
    assert not got.loss.isnan()
    assert error(got.loss, want.loss, units(p)["loss"]) < bound
    for name, gradient in got.gradients.items():
        assert error(gradient, want.gradients[name], units(p)[name]) < bound, name
    for name, metric in got.metrics.items():
        torch.testing.assert_close(metric.double(), want.metrics[name].double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("masked", [0, 0.5, 1], ids=lambda masked: f"{masked} masked")
@pytest.mark.parametrize("positions", [0, 1, 2, 5])
@pytest.mark.parametrize("vocabulary", [1, 2, 64, 65])
def test_small(vocabulary, positions, masked, settings):
    same_as_the_truth(problem(positions, 4, vocabulary, bias=True, masked=masked, seed=vocabulary), settings)


@pytest.mark.parametrize("settings", [SETTINGS["sampled"], SETTINGS["exact"], SETTINGS["sft"]], ids=str)
def test_a_vocabulary_of_a_million(settings):
    same_as_the_truth(problem(3, 4, 1_000_000, masked=0.3, seed=1), settings)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_one_width(settings):
    same_as_the_truth(problem(7, 1, 30, seed=2), settings)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("num_items", [None, 12])
def test_a_batch_without_a_label_has_loss_0_and_gradients_of_0(num_items, settings):
    p = problem(9, 4, 30, bias=True, masked=1).to(torch.float32)
    out = otr_loss(p.hidden, p.weight, p.labels, OTRConfig(**settings), bias=p.bias, num_items=num_items)
    out.loss.backward()
    assert out.loss.item() == 0
    assert all(not leaf.grad.any() for leaf in p.leaves.values())
    assert all(value.item() == 0 for value in out.metrics.values())


@pytest.mark.parametrize("vocabulary", [1, 2, 1_000_000])
@pytest.mark.parametrize("offset", [0, 7, 2**40])
def test_a_label_outside_the_vocabulary_is_an_error(vocabulary, offset):
    p = problem(3, 4, vocabulary, masked=0)
    for label in (vocabulary + offset, -1 - offset, -101 - offset):
        p.labels[1] = label
        message = (
            f"expected 0 to {vocabulary - 1}, or -100 at positions that are not trained, got {label} at position 1"
        )
        with pytest.raises(ValueError, match=message):
            otr_loss(p.hidden, p.weight, p.labels)
