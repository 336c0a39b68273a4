"""Weights of positions, given (`token_weights`) or by the label's probability (thresholds), multiply their rows."""

from dataclasses import replace

import pytest
import torch

from otr_plugin import OTRConfig

from .problems import actual, error, problem, truth

SETTINGS = [
    {"samples": 32, "baseline": "mean"},
    {"samples": 32, "top_k": 9, "nll_weight": 0.2},
    {"estimator": "exact"},
    {"objective": "power", "alpha": 0.7},
    {"objective": "eaft", "nll_weight": 0.5},
]
THRESHOLDS = [{}, {"min_label_prob": 0.02}, {"max_label_prob": 0.1}, {"min_label_prob": 0.02, "max_label_prob": 0.1}]


def weights_of(p, config):
    """A problem whose positions have weights, some 0, and whose probabilities of labels are not near the thresholds."""
    g = torch.Generator().manual_seed(14)
    logits = torch.nn.functional.linear(p.hidden, p.weight, p.bias).double()
    p_label = logits.softmax(-1).gather(1, p.labels.clamp(min=0).unsqueeze(1)).squeeze(1)
    for threshold in (config.min_label_prob, config.max_label_prob):
        p.labels[(p_label - threshold).abs() < 0.01 * threshold] = -100
    weights = torch.rand(len(p.labels), generator=g) * 3
    weights[::5] = 0
    inside = (p_label >= config.min_label_prob) & (p_label <= config.max_label_prob) & (p.labels != -100)
    return weights, inside & (weights > 0)


@pytest.mark.parametrize("thresholds", THRESHOLDS, ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_token_weights_and_thresholds_multiply_rows(settings, thresholds):
    """As the specification says. A row of weight 0 has no gradient, and counts as a trained position."""
    config = OTRConfig(**settings, **thresholds)
    p = problem(40, 8, 60, samples=config.samples, masked=0.2, seed=14, dtype=torch.float64)
    weights, has_weight = weights_of(p, config)
    assert 5 < has_weight.sum() < (32 if thresholds == {} else 28)
    p.options = {"token_weights": weights}
    want, got = truth(p, config), actual(p, config, torch.float64)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-12, atol=1e-14)
    for name, gradient in got.gradients.items():
        assert error(gradient, want.gradients[name]) < 1e-12, name
    for name, metric in got.metrics.items():
        torch.testing.assert_close(metric.double(), want.metrics[name].double(), rtol=1e-11, atol=1e-11)
    assert not got.gradients["hidden"][~has_weight].any()
    assert (got.gradients["hidden"].any(1) == has_weight).all() or config.baseline == "mean"
    assert got.metrics["tokens"] == (p.labels != -100).sum()
    torch.testing.assert_close(got.loss * got.metrics["tokens"], got.metrics["objective"])


def test_token_weights_of_one_change_no_bit_and_need_no_gradient():
    p = problem(20, 8, 60, seed=15)
    plain = actual(p, OTRConfig(samples=32), torch.float32)
    p.options = {"token_weights": torch.ones(20, dtype=torch.bfloat16).requires_grad_()}
    weighted = actual(p, OTRConfig(samples=32), torch.float32)
    assert torch.equal(plain.loss, weighted.loss)
    assert torch.equal(plain.gradients["hidden"], weighted.gradients["hidden"])
    halves = replace(p, options={"token_weights": torch.full((20,), 0.5)})
    assert torch.equal(actual(halves, OTRConfig(samples=32), torch.float32).loss, plain.loss / 2)
