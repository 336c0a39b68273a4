"""The specification matches loops over the paper's sums, finite differences, and known identities."""

import math

import pytest
import torch
import torch.nn.functional as F

from otr_plugin import OTRConfig
from otr_plugin.loss import reference
from otr_plugin.loss.reference import (
    count_draws,
    otr_loss_on_logits,
    otr_loss_reference,
    rollout_distribution,
    whole_logits,
)
from otr_plugin.metrics import TOKEN_COUNT

from .problems import error, problem, truth

CONFIGS = {
    "sampled": OTRConfig(samples=32),
    "sampled, mean baseline": OTRConfig(samples=32, baseline="mean", beta=0.4),
    "sampled, cut": OTRConfig(samples=32, top_k=5, top_p=0.8, temperature=2.0),
    "exact": OTRConfig(estimator="exact", temperature=0.7, beta=-0.6),
    "exact, mean baseline": OTRConfig(estimator="exact", baseline="mean"),
    "exact, cut": OTRConfig(estimator="exact", top_k=4, nll_weight=0.5),
    "dft": OTRConfig(objective="dft"),
    "power": OTRConfig(objective="power", alpha=0.7),
    "power, steep": OTRConfig(objective="power", alpha=3, nll_weight=0.5),
    "eaft": OTRConfig(objective="eaft", alpha=1.5),
    "dft, thresholds": OTRConfig(objective="dft", min_label_prob=0.02, max_label_prob=0.5, nll_weight=0.5),
    "sampled, thresholds": OTRConfig(samples=32, min_label_prob=0.02, max_label_prob=0.5),
    "sft": OTRConfig(objective="sft", nll_weight=0.25),
}


def by_hand(z: list[float], y: int, uniforms: list[float], config: OTRConfig) -> float:
    """The objective of one position, computed with Python's floats only."""
    largest = max(z)
    e = [math.exp(a - largest) for a in z]
    log_p = [a - largest - math.log(sum(e)) for a in z]
    if config.objective == "sft":
        objective = -log_p[y]
    elif config.objective == "dft":
        objective = -math.exp(log_p[y]) * log_p[y]
    elif config.objective == "power":
        objective = (1 - math.exp(log_p[y]) ** config.alpha) / config.alpha
    elif config.objective == "eaft":
        top = [math.exp(a) for a in sorted(log_p)[-20:]]
        entropy = -sum(a / sum(top) * math.log(a / sum(top)) for a in top)
        objective = -((entropy / math.log(len(top))) ** config.alpha) * log_p[y]
    else:
        f = [math.exp((a - largest) / config.temperature) for a in z]
        f = [a / sum(f) for a in f]
        order = sorted(range(len(z)), key=lambda a: -z[a])
        kept = set(order[: config.top_k])
        mass, nucleus = 0.0, set()
        for a in order:
            if mass < config.top_p:
                nucleus.add(a)
            mass += f[a]
        q = [x if a in kept & nucleus else 0.0 for a, x in enumerate(f)]
        q = [x / sum(q) for x in q]
        if config.estimator == "sampled":
            n = [0] * len(z)
            for u in uniforms:
                picked, running = y, 0.0
                if u >= q[y]:
                    for a in range(len(z)):
                        running += q[a] if a != y else 0.0
                        if a != y and running > u - q[y]:
                            picked = a
                            break
                n[picked] += 1
            q = [count / config.samples for count in n]
        r = [1.0 if a == y else config.beta for a in range(len(z))]
        b = sum(s * x for s, x in zip(q, r, strict=True)) if config.baseline == "mean" else 0.0
        objective = -sum(s * (x - b) * lp for s, x, lp in zip(q, r, log_p, strict=True))
    if not config.min_label_prob <= math.exp(log_p[y]) <= config.max_label_prob:
        return 0.0
    return objective - config.nll_weight * log_p[y]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_specification_matches_loops_in_plain_python(config):
    g = torch.Generator().manual_seed(1)
    z = torch.randn(6, 11, generator=g, dtype=torch.float64) * 2
    y = torch.tensor([0, 10, 3, 3, -100, 7])
    u = torch.rand(6, 32, generator=g)
    expected = sum(by_hand(z[i].tolist(), int(y[i]), u[i].tolist(), config) for i in range(6) if y[i] != -100)
    loss, metrics = otr_loss_on_logits(z, y, config, uniforms=u, num_items=8)
    assert loss.item() == pytest.approx(expected / 8, rel=1e-12)
    assert metrics["objective"].item() == pytest.approx(expected, rel=1e-12)
    assert metrics[TOKEN_COUNT].item() == 5


# The weights of dft and eaft carry no gradient, and thresholds are steps.
SMOOTH = [name for name in CONFIGS if not name.startswith(("dft", "eaft")) and "thresholds" not in name]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_match_finite_differences(name, monkeypatch):
    config = CONFIGS[name]
    p = problem(4, 3, 9, bias=True, seed=3, dtype=torch.float64).to(torch.float64)
    z = whole_logits(p.hidden, p.weight, bias=p.bias, logit_scale=0.7, softcap=4.0)
    q = rollout_distribution(z[p.labels != -100], config)
    # q carries no gradient, so it has to stay constant for the finite differences.
    monkeypatch.setattr(reference, "rollout_distribution", lambda z, config: q)

    def loss(hidden, weight, bias):
        return otr_loss_reference(
            hidden, weight, p.labels, config, bias=bias, uniforms=p.uniforms, logit_scale=0.7, softcap=4.0
        )[0]

    assert torch.autograd.gradcheck(loss, (p.hidden, p.weight, p.bias))


def gradient(p, config):
    return truth(p, config).gradients


def test_sft_is_cross_entropy():
    p = problem(20, 6, 40, bias=True, seed=4).to(torch.float64)
    loss = F.cross_entropy(F.linear(p.hidden, p.weight, p.bias), p.labels)
    expected = torch.autograd.grad(loss, (p.hidden, p.weight, p.bias))
    result = truth(p, OTRConfig(objective="sft"))
    torch.testing.assert_close(result.loss, loss.detach())
    for got, want in zip(result.gradients.values(), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_dft_is_sft_times_the_probability_of_the_label():
    p = problem(12, 6, 30, seed=5, masked=0).to(torch.float64)
    p_label = (p.hidden @ p.weight.T).softmax(-1).gather(1, p.labels.unsqueeze(1))
    sft = gradient(p, OTRConfig(objective="sft"))["hidden"]
    torch.testing.assert_close(gradient(p, OTRConfig(objective="dft"))["hidden"], p_label * sft)


def test_power_has_the_gradient_of_sft_and_dft_at_its_ends():
    p = problem(12, 6, 30, seed=5)
    for alpha, objective, bound in ((1e-6, "sft", 1e-4), (1, "dft", 1e-12)):
        power = gradient(p, OTRConfig(objective="power", alpha=alpha))
        for name, want in gradient(p, OTRConfig(objective=objective)).items():
            assert error(power[name], want) < bound


def test_the_weight_of_eaft_is_1_for_equal_probabilities_and_0_for_certainty():
    for vocabulary in (2, 19, 20, 21, 50):
        equal, certain = torch.zeros(1, vocabulary), torch.zeros(1, vocabulary)
        certain[0, 1] = 1000
        labels = torch.tensor([0])
        config = OTRConfig(objective="eaft", alpha=0.5)
        loss, metrics = otr_loss_on_logits(equal.double(), labels, config)
        assert loss.item() == pytest.approx(math.log(vocabulary))
        assert metrics["weight"].item() == pytest.approx(1)
        loss, metrics = otr_loss_on_logits(certain.double(), labels, config)
        assert loss.item() == pytest.approx(0, abs=1e-200)
        assert metrics["weight"].item() == pytest.approx(0, abs=1e-200)


def test_the_weight_is_the_factor_of_p_in_the_gradient():
    g = torch.Generator().manual_seed(8)
    z, u = torch.randn(1, 40, generator=g, dtype=torch.float64), torch.rand(1, 32, generator=g)
    label, other = torch.tensor([3]), int(z.argmin())
    token_weights = torch.tensor([0.6])
    for config in CONFIGS.values():
        if config.estimator == "exact" or config.baseline == "mean":
            continue  # q is in the gradient of every token; the weight is 0
        leaf = z.clone().requires_grad_()
        loss, metrics = otr_loss_on_logits(leaf, label, config, uniforms=u, token_weights=token_weights)
        (gradient_of_z,) = torch.autograd.grad(loss, leaf)
        drawn = count_draws(rollout_distribution(z, config), label, u)[0] if config.draws else torch.zeros(40)
        assert not drawn[other], "the least probable token was drawn"
        torch.testing.assert_close(metrics["weight"] * z.softmax(-1)[0, other], gradient_of_z[0, other])


@pytest.mark.parametrize("beta", [-2.0, -0.1, 0.0, 0.5, 0.9])
def test_exact_at_temperature_1_is_a_multiple_of_dft(beta):
    p = problem(12, 6, 30, seed=6)
    exact = gradient(p, OTRConfig(estimator="exact", temperature=1, beta=beta))
    dft = gradient(p, OTRConfig(objective="dft"))
    for name in exact:
        torch.testing.assert_close(exact[name], (1 - beta) * dft[name])


def test_exact_at_another_temperature_is_not_a_multiple_of_dft():
    p = problem(12, 6, 30, seed=6)
    exact = gradient(p, OTRConfig(estimator="exact", temperature=1.3))["hidden"]
    dft = 1.1 * gradient(p, OTRConfig(objective="dft"))["hidden"]
    assert error(exact, dft) > 0.05


@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_the_mean_of_sampled_gradients_is_the_exact_gradient(baseline):
    """The mean over 4,000 positions differs from the exact gradient by less than 4 standard errors.

    With K draws the mean baseline is itself sampled, which shrinks the gradient by the factor (K - 1) / K.
    """
    draws, samples = 4000, 8
    p = problem(1, 5, 12, samples=samples, masked=0, seed=7)
    shrink = (samples - 1) / samples if baseline == "mean" else 1
    exact = gradient(p, OTRConfig(estimator="exact", baseline=baseline))["hidden"][0] * shrink
    p.hidden, p.labels = p.hidden.repeat(draws, 1), p.labels.repeat(draws)
    p.uniforms = torch.rand(draws, samples, generator=torch.Generator().manual_seed(8))
    p.options["num_items"] = 1
    one = gradient(p, OTRConfig(samples=samples, baseline=baseline))["hidden"]
    standard_error = one.std(0) / draws**0.5
    assert ((one.mean(0) - exact) / standard_error).abs().max() < 4
    assert (standard_error < exact.abs().max() / 20).all(), "the standard error is too large for a comparison"


@pytest.mark.parametrize(("k", "p"), [(None, 0.5), (None, 0.999), (1, 1.0), (7, 1.0), (7, 0.3), (99, 0.01)])
def test_top_k_and_top_p_keep_the_fewest_most_probable_tokens(k, p):
    z = torch.randn(50, 30, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 2
    q = rollout_distribution(z, OTRConfig(top_k=k, top_p=p, temperature=1.5))
    whole = (z / 1.5).softmax(-1)
    torch.testing.assert_close(q.sum(-1), torch.ones(50).double())
    for row, w in zip(q, whole, strict=True):
        size = int((row > 0).sum())
        assert set(row.nonzero().flatten().tolist()) == set(w.topk(size).indices.tolist())
        by_mass = int((w.sort(descending=True).values.cumsum(0) < p).sum()) + 1
        assert size == min(by_mass if p < 1 else 30, k or 30)


def test_tokens_tied_with_the_kth_are_kept():
    z = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0]])
    q = rollout_distribution(z, OTRConfig(top_k=2))
    assert (q > 0).tolist() == [[True, False, True, True, False]]


def test_low_uniforms_draw_the_label_and_others_follow_vocabulary_order():
    q = torch.tensor([[0.25, 0.0, 0.5, 0.25]], dtype=torch.float64)
    uniforms = torch.tensor([[0.0, 0.4999, 0.5, 0.7499, 0.75, 0.9999]], dtype=torch.float64)
    # The label (2) is drawn by [0, 0.5). In vocabulary order, 0 is drawn by [0.5, 0.75), and 3 by [0.75, 1).
    assert count_draws(q, torch.tensor([2]), uniforms).tolist() == [[2, 0, 2, 2]]


def test_without_trained_positions_the_loss_is_zero_and_has_gradients():
    p = problem(3, 4, 5, masked=1.0)
    result = truth(p, OTRConfig(samples=32))
    assert result.loss == 0
    assert not result.gradients["hidden"].any()
    assert not result.gradients["weight"].any()


@pytest.mark.parametrize("beta", [-2.0, -0.1])
def test_the_expected_pull_on_the_label_is_positive_although_beta_p_minus_q_may_not_be(beta):
    """docs/objectives.md: beta (p - q) pushes every token away that is less probable than exp(-Renyi's entropy)."""
    g, kappa = torch.Generator().manual_seed(4), 1.3
    logits = torch.randn(40, 30, generator=g, dtype=torch.float64) * 3
    p, labels = logits.softmax(-1), torch.arange(40) % 30
    q = (logits / kappa).softmax(-1)
    leaf = logits.clone().requires_grad_()
    config = OTRConfig(estimator="exact", beta=beta, temperature=kappa)
    loss, _ = otr_loss_on_logits(leaf, labels, config, num_items=1)
    (gradient,) = torch.autograd.grad(loss, leaf)
    p_y, q_y, at_label = (t.gather(1, labels[:, None]).squeeze(1) for t in (p, q, gradient))
    torch.testing.assert_close(-at_label, q_y * (1 - p_y) - beta * p_y * (1 - q_y))
    assert (at_label < 0).all()
    order = 1 / kappa
    renyi = (p**order).sum(-1).log() / (1 - order)
    pushed_away = beta * (p - q) > 0  # a positive gradient makes a logit smaller
    assert torch.equal(pushed_away, p < torch.exp(-renyi)[:, None])
    assert 0 < pushed_away.gather(1, labels[:, None]).sum() < 40
