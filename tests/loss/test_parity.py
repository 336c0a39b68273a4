"""otr_loss matches the specification.

The rule: the error of otr_loss is at most the error of the native computation (whole logits in the same dtype, the
loss on them in float32, autograd) on the same problem, plus BOUND. Errors are differences from the specification in
float64, relative to the largest value of the tensor. Draws from logits in low precision are compared with the
specification's draws from the same rounded logits.
"""

import itertools

import pytest
import torch

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.config import OBJECTIVES
from otr_plugin.loss.reference import otr_loss_on_logits
from otr_plugin.loss.torch_kernel import compute_chunk
from otr_plugin.metrics import ROW_METRICS, TOKEN_COUNT

from .problems import actual, config_of, error, native, problem, truth, truth_of_draws, units

# float64 and float32: rounding of sums over 40,000 tokens. bfloat16, float16: the step between neighbouring numbers.
BOUND = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
DTYPES = list(BOUND)

SHAPES = [(1, 1, 1), (3, 4, 2), (7, 16, 63), (5, 8, 64), (9, 8, 65), (33, 24, 1000), (4, 6, 40001)]
CONFIGS = {
    "sampled": {},
    "one sample": {"samples": 1},
    "sampled, mean baseline": {"baseline": "mean", "beta": 0.5},
    "sampled, top_k": {"top_k": 7},
    "sampled, top_p": {"top_p": 0.9, "temperature": 3.0},
    "sampled, both, nll": {"top_k": 20, "top_p": 0.7, "nll_weight": 0.3},
    "exact": {"estimator": "exact", "beta": -2.0},
    "exact, cold": {"estimator": "exact", "temperature": 0.3},
    "exact, mean baseline": {"estimator": "exact", "baseline": "mean"},
    "exact, cut": {"estimator": "exact", "top_k": 5, "top_p": 0.95, "nll_weight": 1.0},
    "dft": {"objective": "dft"},
    "power": {"objective": "power", "alpha": 0.7},
    "power, nearly sft": {"objective": "power", "alpha": 1e-6},
    "power, steep, nll": {"objective": "power", "alpha": 8, "nll_weight": 0.2},
    "eaft": {"objective": "eaft"},
    "eaft, flat": {"objective": "eaft", "alpha": 0.25, "nll_weight": 0.1},
    "sft": {"objective": "sft"},
    "sft, weighted twice": {"objective": "sft", "nll_weight": 0.5},
}


def check(p, config, dtype, compute=actual):
    """The result of `compute` is as close to the specification as the native computation, or within BOUND."""
    rounded = config.draws and dtype.itemsize < 4
    want = truth_of_draws(p, config, dtype) if rounded else truth(p, config)
    native_result, got = native(p, config, dtype), compute(p, config, dtype)
    bound, unit = BOUND[dtype], units(p)
    assert error(got.loss, want.loss, 1) <= error(native_result.loss, want.loss, 1) + bound
    assert got.gradients.keys() == want.gradients.keys()
    for name, gradient in got.gradients.items():
        assert gradient.dtype == dtype
        allowed = error(native_result.gradients[name], want.gradients[name], unit[name]) + bound
        assert error(gradient, want.gradients[name], unit[name]) <= allowed, name
    assert got.metrics.keys() == want.metrics.keys()
    for name, value in got.metrics.items():
        positions = int(want.metrics[TOKEN_COUNT])
        allowed = error(native_result.metrics[name], want.metrics[name], positions) + bound
        assert error(value, want.metrics[name], positions) <= allowed, name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_and_dtype_matches_the_specification(shape, dtype, config):
    config = config_of(config)
    check(problem(*shape, samples=config.samples, bias=True, seed=sum(shape), dtype=dtype), config, dtype)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    "head",
    [{"logit_scale": 0.25}, {"logit_scale": -3.0}, {"softcap": 2.0}, {"logit_scale": 0.5, "softcap": 30.0}],
    ids=str,
)
def test_scaled_and_softcapped_logits_match_the_specification(head, config):
    config = config_of(config, 16)
    for dtype in (torch.float32, torch.bfloat16):
        check(problem(11, 8, 200, samples=config.samples, seed=2, dtype=dtype, **head), config, dtype)


@pytest.mark.parametrize("masked", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("estimator", ["sampled", "exact"])
def test_masked_positions_get_no_gradient(masked, estimator):
    p = problem(40, 8, 90, masked=masked, seed=11)
    config = config_of({"estimator": estimator})
    check(p, config, torch.float32)
    hidden = actual(p, config, torch.float32).gradients["hidden"]
    assert not hidden[p.labels == -100].any(), "a position that is not trained has a gradient"


@pytest.mark.parametrize(
    "needed",
    [c for r in (1, 2) for c in itertools.combinations(("hidden", "weight", "bias"), r)],
    ids="+".join,
)
def test_only_required_gradients_are_computed(needed):
    config = OTRConfig(samples=32)
    p = problem(9, 8, 70, bias=True, seed=12)
    whole = actual(p, config, torch.float32).gradients
    for name in needed:
        getattr(p, name).requires_grad_()
    some = actual(p, config).gradients
    assert some.keys() == set(needed)
    for name in needed:
        torch.testing.assert_close(some[name], whole[name], rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ["sampled", "exact"])
@pytest.mark.parametrize("chunk", [1, 2, 7, 39, 40, 1000])
def test_the_chunk_size_does_not_change_the_result(chunk, estimator):
    p = problem(40, 8, 500, bias=True, masked=0.3, seed=13)
    whole = actual(p, config_of({"estimator": estimator}), torch.float32)
    parts = actual(p, config_of({"estimator": estimator}, chunk_tokens=chunk), torch.float32)
    torch.testing.assert_close(parts.loss, whole.loss, rtol=2e-6, atol=1e-7)
    for name, gradient in parts.gradients.items():
        assert error(gradient, whole.gradients[name]) < 2e-6
    torch.testing.assert_close(parts.metrics["hit_rate"], whole.metrics["hit_rate"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_gradient_of_the_weight_is_summed_in_float32(dtype):
    """Many chunks add similar terms. A sum in low precision would soon be too large for one more term to change it."""
    p = problem(512, 8, 50, masked=0, seed=14, dtype=dtype)
    p.hidden = p.hidden[:1].repeat(512, 1)
    p.labels = p.labels[:1].repeat(512)
    config = OTRConfig(objective="sft", chunk_tokens=1)
    got, want = actual(p, config, dtype).gradients["weight"], truth(p, config).gradients["weight"]
    half_a_step = torch.finfo(dtype).eps / 2
    one_chunks_error = 2 * half_a_step  # the logits and their gradient are rounded to dtype
    assert error(got, want) < half_a_step + one_chunks_error


def test_gradients_of_micro_batches_add_up_to_that_of_the_batch():
    p = problem(24, 8, 90, masked=0.4, seed=15).to(torch.float32)
    config = OTRConfig(samples=32)
    items = int((p.labels != -100).sum())
    whole = actual(p, config)
    total = {name: torch.zeros_like(t) for name, t in p.leaves.items()}
    for some in (slice(0, 5), slice(5, 6), slice(6, 24)):
        out = otr_loss(p.hidden[some], p.weight, p.labels[some], config, num_items=items, uniforms=p.uniforms[some])
        for (name, _), part in zip(
            p.leaves.items(), torch.autograd.grad(out.loss, list(p.leaves.values())), strict=True
        ):
            total[name] += part
    for name in total:
        assert error(total[name], whole.gradients[name]) < 2e-6


@pytest.mark.parametrize(
    "items", [7, 7.5, torch.tensor(7), torch.tensor(7.5), torch.tensor([7]), torch.tensor(7.5).double()], ids=repr
)
def test_num_items_divides_loss_and_gradients(items):
    p = problem(10, 8, 30, seed=16).to(torch.float32)
    config = OTRConfig(samples=32)
    default = actual(p, config)
    p.options["num_items"] = items
    got = actual(p, config)
    assert got.loss.dtype == torch.float32
    share = int((p.labels != -100).sum()) / float(items)
    torch.testing.assert_close(got.loss, default.loss * share)
    for name, gradient in got.gradients.items():
        torch.testing.assert_close(gradient, default.gradients[name] * share)


def test_a_loss_scale_keeps_float16_gradients_from_underflowing():
    """Gradients are divided by num_items only in backward, together with the loss scale, so none underflows."""
    p = problem(64, 8, 3000, masked=0, seed=17, sharpness=0.1, num_items=100_000, dtype=torch.float16)
    config = OTRConfig(objective="sft")
    half = p.to(torch.float16)
    loss = otr_loss(half.hidden, half.weight, p.labels, config, num_items=100_000).loss
    (scaled,) = torch.autograd.grad(loss * 2.0**16, half.hidden)
    want = truth(p, config).gradients["hidden"] * 2.0**16
    assert error(scaled, want) < 4e-3


def test_non_contiguous_inputs_give_the_same_result():
    config = OTRConfig(samples=32)
    p = problem(30, 12, 80, seed=18)
    want = actual(p, config, torch.float32)
    hidden = p.hidden.t().contiguous().t().requires_grad_()
    every_other = torch.stack([p.weight, p.weight * 5], 1).requires_grad_()
    labels = torch.stack([p.labels, p.labels], 1)[:, 0]
    out = otr_loss(hidden, every_other[:, 0], labels, config, uniforms=p.uniforms)
    torch.testing.assert_close(out.loss, want.loss)
    of_hidden, of_weight = torch.autograd.grad(out.loss, (hidden, every_other))
    assert error(of_hidden, want.gradients["hidden"]) < 2e-6
    assert error(of_weight[:, 0], want.gradients["weight"]) < 2e-6


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_without_trained_positions_loss_and_gradients_are_zero(objective):
    config = config_of({"objective": objective})
    for p in (problem(0, 4, 9), problem(5, 4, 9, masked=1.0)):
        result = actual(p, config, torch.float32)
        assert result.loss == 0
        assert result.gradients["hidden"].shape == p.hidden.shape
        assert not any(gradient.any() for gradient in result.gradients.values())
        assert all(value == 0 for value in result.metrics.values())


def test_excluded_tokens_with_logit_minus_infinity_match_the_specification():
    """A bias of -inf excludes tokens: they are never drawn, and nothing becomes NaN."""
    p = problem(20, 8, 150, bias=True, masked=0, seed=19)
    out = torch.arange(150) % 3 == 0
    p.bias = p.bias.masked_fill(out, -torch.inf)
    p.labels = p.labels // 3 * 3 + 1
    for settings in CONFIGS.values():
        config = config_of(settings)
        p.uniforms = torch.rand(20, config.samples, generator=torch.Generator().manual_seed(20))
        check(p, config, torch.float32)


def test_a_label_with_logit_minus_infinity_has_a_finite_objective():
    """The NLL of such a label is infinite. OTR never draws it, so its objective and its gradient are finite."""
    p = problem(6, 8, 50, bias=True, masked=0, seed=21)
    p.labels[:] = 7
    p.bias[7] = -torch.inf
    for settings in ({"samples": 32}, {"estimator": "exact"}, {"objective": "dft"}):
        got, want = actual(p, OTRConfig(**settings), torch.float32), truth(p, OTRConfig(**settings))
        assert got.metrics["nll"] == torch.inf
        torch.testing.assert_close(got.loss.double(), want.loss, rtol=1e-5, atol=1e-6)
        assert error(got.gradients["hidden"], want.gradients["hidden"]) < 1e-5


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e2, 1e4])
def test_tiny_and_huge_logits_match_the_specification(size):
    for settings in CONFIGS.values():
        config = config_of(settings)
        p = problem(12, 8, 130, samples=config.samples, sharpness=size, seed=22)
        check(p, config, torch.float32)


@pytest.mark.parametrize("sharpness", [0.0, 1.0, 3.0])
def test_sums_over_a_long_row_are_accurate(sharpness):
    """torch.softmax adds 151,936 terms one after the other in float32, with an error of up to 8e-6."""
    v = 151_936
    raw = torch.randn(6, v, generator=torch.Generator().manual_seed(25)) * sharpness
    labels = raw.topk(6).indices.diagonal()
    exact = raw.double().requires_grad_()
    loss, metrics = otr_loss_on_logits(exact, labels, OTRConfig(objective="sft"), num_items=1)
    (want,) = torch.autograd.grad(loss, exact)
    logits, row_metrics = raw.clone(), torch.empty(6, len(ROW_METRICS))
    compute_chunk(
        logits,
        labels,
        None,
        row_metrics,
        OTRConfig(objective="sft"),
        vocabulary=v,
        logit_scale=1.0,
        softcap=None,
        with_grad=True,
    )
    assert abs(row_metrics[:, 0].double().sum() - metrics["nll"]) / 6 < 2e-6
    unlike_the_label = want.scatter(1, labels.unsqueeze(1), 0)
    assert ((logits.double() - want) / want)[unlike_the_label > 0].abs().max() < 1.5e-6


def test_equal_logits_match_the_specification():
    for settings in CONFIGS.values():
        config = config_of(settings)
        p = problem(12, 8, 130, samples=config.samples, masked=0, seed=23)
        flat, tied = torch.zeros_like(p.weight), p.weight[torch.arange(130) // 10 * 10]
        for p.weight in (flat, tied):
            check(p, config, torch.float64)


def test_under_autocast_the_logits_are_those_of_a_linear_layer():
    p = problem(16, 8, 90, bias=True, seed=24).to(torch.float32)
    config = OTRConfig(objective="sft")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = torch.nn.functional.linear(p.hidden, p.weight, p.bias)
        got = actual(p, config)
    loss = torch.nn.functional.cross_entropy(logits.float(), p.labels)
    want = torch.autograd.grad(loss, (p.hidden, p.weight, p.bias))
    torch.testing.assert_close(got.loss, loss.detach(), rtol=1e-5, atol=0)
    exact = truth(p, config)
    for (name, gradient), native_result in zip(got.gradients.items(), want, strict=True):
        assert gradient.dtype == torch.float32
        allowed = error(native_result, exact.gradients[name]) + BOUND[torch.bfloat16]
        assert error(gradient, exact.gradients[name]) <= allowed
    assert got.loss != actual(p, config).loss, "autocast changed nothing"
