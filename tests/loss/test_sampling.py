"""Draws are those of the specification, and every token is drawn at its rate, however rare it is."""

import pytest
import torch

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.reference import count_draws, rollout_distribution
from otr_plugin.loss.sampling import TILE, draw, draw_threshold, largest_reaching
from otr_plugin.loss.vocabulary import Place

from .problems import problem


def draw_counts(q, label, uniforms):
    """How often `draw` draws each token, [R, V]. It takes padded rows, and the label's probability separately."""
    label = label.unsqueeze(1)
    padded = torch.nn.functional.pad(q, (0, -q.shape[1] % TILE))
    drawn, is_label = draw(padded.scatter(1, label, 0), Place(label, None), q.gather(1, label), uniforms)
    tokens = drawn.column
    assert torch.equal(tokens == label, is_label)
    return torch.zeros_like(q, dtype=torch.float64).scatter_add(1, tokens, torch.ones(tokens.shape).double())


@pytest.mark.parametrize("v", [1, 2, 63, 64, 65, 129, 5000])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 6.0, 40.0])
@pytest.mark.parametrize("samples", [1, 200])  # few draws use tiles of TILE tokens, many draws tiles of one token
def test_counts_match_the_specification(v, sharpness, samples):
    g = torch.Generator().manual_seed(v)
    q = (torch.randn(40, v, generator=g, dtype=torch.float64) * sharpness).softmax(-1)
    label = torch.randint(0, v, (40,), generator=g)
    uniforms = torch.rand(40, samples, generator=g, dtype=torch.float64)
    assert torch.equal(draw_counts(q, label, uniforms), count_draws(q, label, uniforms))


def test_the_start_of_a_tile_is_accurate_to_float64():
    """If the starts of tiles were rounded to float32, some of these 120,000 draws would pick a neighbouring token."""
    g = torch.Generator().manual_seed(11)
    q = torch.rand(300, 40_001, generator=g, dtype=torch.float64)
    q /= q.sum(-1, keepdim=True)
    label, uniforms = torch.randint(0, 40_001, (300,), generator=g), torch.rand(300, 400, generator=g).double()
    assert torch.equal(draw_counts(q, label, uniforms), count_draws(q, label, uniforms))


@pytest.mark.parametrize("samples", [100, 1000])
def test_in_float32_only_draws_at_the_edge_of_a_bin_differ(samples):
    g = torch.Generator().manual_seed(1)
    q = (torch.randn(30, 40_001, generator=g, dtype=torch.float64) * 2).softmax(-1)
    label = q.argmax(-1)
    uniforms = torch.rand(30, samples, generator=g)
    differ = (draw_counts(q.float(), label, uniforms) - count_draws(q, label, uniforms)).abs().sum() / 2
    # The edges of the 40,000 bins have an error of about 1e-7 of the total.
    assert differ / uniforms.numel() < 0.01


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("samples", [2, 64])
def test_q_need_not_sum_to_one(scale, samples):
    g = torch.Generator().manual_seed(2)
    q = torch.rand(20, 300, generator=g, dtype=torch.float64)
    label, uniforms = torch.randint(0, 300, (20,), generator=g), torch.rand(20, samples, generator=g)
    want = count_draws(q / q.sum(-1, keepdim=True), label, uniforms)
    assert torch.equal(draw_counts(q * scale, label, uniforms), want)


@pytest.mark.parametrize("samples", [2, 9])
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24, 1 - 2**-53])
def test_a_token_of_probability_zero_is_never_drawn(u, samples):
    for alive in ([3], [3, 70], [0], [299], [63, 64]):
        for label in (3, 5, 299):
            q = torch.zeros(1, 300, dtype=torch.float64)
            q[0, alive] = 1 / len(alive)
            for dtype in (torch.float32, torch.float64):
                counts = draw_counts(
                    q.to(dtype), torch.tensor([label]), torch.full((1, samples), u, dtype=torch.float64)
                )
                assert counts.sum() == samples
                assert set(counts[0].nonzero().flatten().tolist()) <= set(alive)
            expected = count_draws(q, torch.tensor([label]), torch.full((1, samples), u, dtype=torch.float64))
            assert set(expected[0].nonzero().flatten().tolist()) <= set(alive)


def chi_squared_p(counts, expected):
    """The p-value of a chi-squared test. Cells with small expected counts are merged."""
    order = expected.argsort()
    few = order[: int((expected[order].cumsum(0) < 20).sum()) + 1]
    many = order[len(few) :]
    counts = torch.cat([counts[many], counts[few].sum(0, keepdim=True)])
    expected = torch.cat([expected[many], expected[few].sum(0, keepdim=True)])
    statistic = ((counts - expected) ** 2 / expected).sum()
    return torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2).item()


@pytest.mark.parametrize(
    "config", [{}, {"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.6, "temperature": 2.0}], ids=str
)
def test_draws_of_the_loss_follow_the_rollout_distribution(config):
    """With the identity as weight, the gradient of hidden is dJ/dz, from which every count can be computed."""
    v, rows, samples = 300, 500, 256
    config = OTRConfig(samples=samples, beta=-0.1, **config)
    z = torch.randn(v, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
    label = int(z.topk(3).indices[2])
    hidden = z.float().repeat(rows, 1).requires_grad_()
    labels = torch.full((rows,), label)
    generator = torch.Generator().manual_seed(4)
    out = otr_loss(hidden, torch.eye(v), labels, config, num_items=1, generator=generator)
    (gradient,) = torch.autograd.grad(out.loss, hidden)
    p, hit = z.softmax(-1), out.metrics["hit_rate"].double() / rows
    reward = torch.full((v,), config.beta, dtype=torch.float64)
    reward[label] = 1
    mean_reward = config.beta + (1 - config.beta) * hit
    counts = (mean_reward * p - gradient.double().mean(0)) / reward * samples * rows
    assert (counts - counts.round()).abs().max() < 0.2, "these are no integers, so they are no counts"
    counts = counts.round()
    assert counts.sum() == samples * rows
    q = rollout_distribution(z.unsqueeze(0), config)[0]
    assert not counts[q == 0].any()
    assert 1e-4 < chi_squared_p(counts, q * samples * rows) < 1 - 1e-4


def test_rare_tokens_of_a_large_vocabulary_are_drawn_at_their_rate():
    """150,000 tokens share half of the probability; a single running sum in float32 would round many of them away."""
    v, rows, samples = 150_000, 100, 2000
    q = torch.full((v,), 0.5 / (v - 2), dtype=torch.float64)
    q[0], q[v // 2] = 0.3, 0.2
    uniforms = torch.rand(rows, samples, generator=torch.Generator().manual_seed(5))
    counts = draw_counts(q.float().repeat(rows, 1), torch.zeros(rows).long(), uniforms).sum(0)
    blocks = counts.reshape(-1, 50).sum(1)  # 3,000 blocks; in each of them the count must be as expected
    expected = q.reshape(-1, 50).sum(1) * rows * samples
    assert 1e-4 < chi_squared_p(blocks, expected) < 1 - 1e-4
    seen = (counts > 0).double().mean().item()
    poisson = 1 - torch.exp(-q[1] * rows * samples).item()
    assert seen == pytest.approx(poisson, rel=0.02), "some tokens can never be drawn"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_of_top_k_are_exact(dtype):
    g = torch.Generator().manual_seed(6)
    x = torch.randn(50, 333, generator=g, dtype=dtype) * 10.0 ** torch.randint(-20, 5, (50, 1), generator=g)
    x[3] = 0.0
    x[4, ::2] = -torch.inf
    x[5] = -x[5].abs()
    x[6] = x[6].abs()
    for k in (1, 2, 100, 333):
        threshold = draw_threshold(x, OTRConfig(top_k=k))
        assert torch.equal(threshold, x.topk(k).values[:, -1:])
    assert torch.equal(draw_threshold(x, OTRConfig(top_k=1000)), x.amin(-1, keepdim=True))


def test_an_unreachable_target_excludes_no_token():
    x = torch.randn(5, 64)
    assert torch.equal(largest_reaching(x, torch.ones_like(x), 65), x.amin(-1, keepdim=True))


def test_top_p_matches_the_specification():
    x = torch.randn(200, 500, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 3
    for top_p in (0.01, 0.5, 0.9, 0.9999):
        for temperature in (0.5, 1.3):
            config = OTRConfig(top_p=top_p, temperature=temperature)
            kept = x >= draw_threshold(x, config)
            assert torch.equal(kept, rollout_distribution(x, config) > 0)


def test_rounding_does_not_matter_where_probabilities_sum_to_top_p():
    """Two tokens with 0.5 + 0.3 reach 0.8. Three of four equal tokens reach 0.75, and the fourth is kept as a tie."""
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([[0.5, 0.2, 0.3], [0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], dtype=dtype).log()
        config = OTRConfig(top_p=0.8, temperature=1)
        kept = [[True, False, True], [True, True, False], [False, True, False]]
        assert (x >= draw_threshold(x, config)).tolist() == kept
        assert (rollout_distribution(x, config) > 0).tolist() == kept
        flat = torch.zeros(1, 4, dtype=dtype)
        assert (flat >= draw_threshold(flat, OTRConfig(top_p=0.75))).all()


def test_unsampled_is_the_probability_that_all_draws_miss_a_rare_label():
    """256 draws miss a label with q = 0.001 with probability 0.999^256 = 77%."""
    rows = 20_000
    hidden = torch.tensor([[0.001, 0.999]]).log().repeat(rows, 1)
    labels = torch.zeros(rows).long()
    config = OTRConfig(temperature=1)
    sampled = otr_loss(hidden, torch.eye(2), labels, config, generator=torch.Generator().manual_seed(8))
    exact = otr_loss(hidden, torch.eye(2), labels, OTRConfig(temperature=1, estimator="exact"))
    assert sampled.metrics["unsampled"].item() / rows == pytest.approx(0.999**256, abs=0.012)
    assert exact.metrics["unsampled"].item() / rows == pytest.approx(0.999**256, rel=1e-3)
    assert sampled.metrics["hit_rate"].item() / rows == pytest.approx(0.001, rel=0.1)


def test_counts_do_not_depend_on_the_chunk_size():
    p = problem(60, 16, 7000, seed=9, masked=0.2)
    metrics = [
        otr_loss(p.hidden, p.weight, p.labels, OTRConfig(samples=32, chunk_tokens=c), uniforms=p.uniforms)
        for c in (1, 13, 60)
    ]
    hits = [out.metrics["hit_rate"] * 32 for out in metrics]
    assert hits[0].round() == hits[1].round() == hits[2].round() > 0
