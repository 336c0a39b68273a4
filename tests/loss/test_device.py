"""The Triton kernel on the device that is here: a GPU, or a CPU with Triton's interpreter at a toy size.

`python -m benchmarks gpu` runs this file on a card. The truth is PyTorch's kernel in float64 on the CPU.
"""

import importlib

import pytest
import torch

from otr_plugin import OTRConfig
from otr_plugin.loss import torch_kernel
from otr_plugin.metrics import ROW_METRICS

from . import problems
from .problems import config_of, problem
from .test_parity import CONFIGS, check

pytest.importorskip("triton")
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ODD = [1, 3, 127, 129, 1001] + ([32_003, 50_257, 151_937] if HAS_GPU else [])
ROWS, DISTINCT, WIDTH = (65_536, 16, 1000) if HAS_GPU else (24, 4, 300)
SAMPLES = 32  # so few that a count can be read from a gradient of 16 bits
SETTINGS = [{}, {"estimator": "exact"}, {"objective": "eaft"}, {"top_k": 20, "top_p": 0.9}]

by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def on_this_device(monkeypatch):
    monkeypatch.setattr(problems, "DEVICE", DEVICE)


def run(kernel, logits, labels, uniforms, config):
    """Row metrics and gradient by a kernel, on the device of the logits. It overwrites the logits."""
    row_metrics = torch.empty(
        len(logits), len(ROW_METRICS), dtype=torch_kernel.precise(logits.dtype), device=logits.device
    )
    labels = labels.to(logits.device)
    uniforms = uniforms.to(logits.device) if config.draws else None
    v = logits.shape[1]
    options = {"vocabulary": v, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    compute_chunk = importlib.import_module(f"otr_plugin.loss.{kernel}").compute_chunk
    if kernel == "torch_kernel":  # it needs rows whose length is a multiple of its tile
        logits = torch.nn.functional.pad(logits, (0, torch_kernel.padded(v) - v))
    compute_chunk(logits, labels, uniforms, row_metrics, config, **options)
    return row_metrics, logits[:, :v]


def on_device(logits, labels, uniforms, config):
    return run("triton.launch", logits.to(DEVICE, copy=True), labels, uniforms, config)


def truth(logits, labels, uniforms, config):
    return run("torch_kernel", logits.double(), labels, uniforms.double(), config)


def case(n, v, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(n, v, generator=g) * 2).to(dtype)
    return logits, torch.randint(0, v, (n,), generator=g), torch.rand(n, SAMPLES, generator=g)


def draws_far_from_edges(logits, labels, config, seed):
    """Tokens [N, K] and, for each, the number in the middle of its interval: the label's comes first, then the others.

    Rounding cannot move such a draw to another token.
    """
    q = (logits.double() / config.temperature).softmax(-1)
    q_label = q.gather(1, labels.unsqueeze(1))
    others = q.scatter(1, labels.unsqueeze(1), 0)
    middle = q_label + others.cumsum(1) - others / 2
    middle.scatter_(1, labels.unsqueeze(1), q_label / 2)
    wide = q.where(q > 1e-5, 0)
    tokens = torch.multinomial(wide, SAMPLES, replacement=True, generator=torch.Generator().manual_seed(seed))
    return tokens, middle.gather(1, tokens).float()


def counts_in(gradient, logits, labels, config):
    """How often each token was drawn, from dJ/dz = S p - r n / K."""
    p = logits.double().softmax(-1)
    reward = torch.full_like(p, config.beta).scatter(1, labels.unsqueeze(1), 1.0)
    at_label = p.gather(1, labels.unsqueeze(1)), gradient.gather(1, labels.unsqueeze(1))
    # At the label: g = S p - n / K, and S = (n + beta (K - n)) / K. Solved for n:
    hits = config.samples * (config.beta * at_label[0] - at_label[1]) / (1 - at_label[0] * (1 - config.beta))
    mean_reward = config.beta + (1 - config.beta) * hits.round() / config.samples
    return (config.samples * (mean_reward * p - gradient) / reward).round().long()


@by_dtype
@pytest.mark.parametrize("v", [200, 1001] + ([151_936] if HAS_GPU else []))
def test_the_same_uniforms_give_the_counts_of_the_cpus_float64(v, dtype):
    config = OTRConfig(samples=SAMPLES, beta=-1.0)
    logits, labels, _ = case(6, v, dtype, seed=v)
    tokens, uniforms = draws_far_from_edges(logits, labels, config, seed=v)
    want = torch.zeros(6, v, dtype=torch.int64).scatter_add_(1, tokens, torch.ones_like(tokens))
    row_metrics, gradient = on_device(logits, labels, uniforms, config)
    of_truth = truth(logits, labels, uniforms, config)
    for metrics, one in ((row_metrics, gradient), of_truth):
        hits = metrics[:, ROW_METRICS.index("hit_rate")].cpu() * SAMPLES
        assert torch.equal(hits.round().long(), want.gather(1, labels.unsqueeze(1)).squeeze(1))
        assert torch.equal(counts_in(one.double().cpu(), logits, labels, config), want)


@by_dtype
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_repeats_are_identical_bit_for_bit(settings, dtype):
    config = config_of(settings, SAMPLES)
    inputs = case(DISTINCT, WIDTH, dtype)
    first = on_device(*inputs, config)
    for _ in range(3 if HAS_GPU else 1):
        for got, want in zip(on_device(*inputs, config), first, strict=True):
            assert torch.equal(got.nan_to_num(), want.nan_to_num())


@by_dtype
@pytest.mark.parametrize("v", ODD)
def test_odd_vocabularies_match_the_specification(v, dtype):
    for settings in ({}, {"estimator": "exact"}, {"objective": "sft"}):
        config = config_of(settings, SAMPLES, kernel="triton")
        check(problem(3, 8, v, samples=config.samples, bias=True, seed=v, dtype=dtype), config, dtype)


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_matches_the_specification(name):
    config = config_of(CONFIGS[name], SAMPLES, kernel="triton")
    check(problem(4, 8, 129, samples=config.samples, seed=5, dtype=torch.bfloat16), config, torch.bfloat16)


@by_dtype
@pytest.mark.parametrize("stride", [300, 301, 333, 512])
def test_the_distance_between_rows_does_not_change_the_result(stride, dtype):
    config = OTRConfig(estimator="exact")
    logits, labels, uniforms = case(5, 300, dtype)
    apart = torch.full((5, stride), 7.0, dtype=dtype, device=DEVICE)[:, :300]
    apart.copy_(logits)
    row_metrics, gradient = run("triton.launch", apart, labels, uniforms, config)
    want_metrics, want = truth(logits, labels, uniforms, config)
    torch.testing.assert_close(row_metrics.double().cpu(), want_metrics, rtol=3e-6, atol=3e-6)
    step = max(torch.finfo(dtype).eps, 2e-6)
    assert ((gradient.double().cpu() - want).abs() <= step * want.abs().amax(1, keepdim=True)).all()


@by_dtype
@pytest.mark.parametrize("rows", [1, ROWS])
def test_a_row_has_the_same_bits_among_any_number_of_rows(rows, dtype):
    """Rows are copies of a few, which are computed alone first."""
    config = OTRConfig(samples=SAMPLES)
    distinct = min(rows, DISTINCT)
    logits, labels, uniforms = case(distinct, WIDTH, dtype)
    alone = [on_device(logits[[i]], labels[[i]], uniforms[[i]], config) for i in range(distinct)]
    times = rows // distinct
    together = on_device(logits.repeat(times, 1), labels.repeat(times), uniforms.repeat(times, 1), config)
    for got, parts in zip(together, zip(*alone, strict=True), strict=True):
        want = torch.cat(parts).nan_to_num()
        assert torch.equal(got.nan_to_num().view(times, *want.shape), want.expand(times, *want.shape))
