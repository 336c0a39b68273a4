"""A row of logits without a loss stays visible: NaN in all its metrics and in its gradient, and in no other row.

A row has no loss if a logit is NaN or +inf, or if all are -inf. Single logits of -inf are tokens that cannot be drawn.
"""

import importlib.util
from dataclasses import replace

import pytest
import torch

from otr_plugin.loss.reference import otr_loss_on_logits
from otr_plugin.metrics import DRAW_METRICS, ROW_METRICS, TOKEN_COUNT

from .problems import actual, config_of, problem, truth
from .test_triton import run_kernel

pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")  # numpy, in Triton's interpreter
SETTINGS = {
    "sampled": {},
    "sampled, top_k": {"top_k": 5},
    "sampled, top_p": {"top_p": 0.9},
    "sampled, top_k, top_p, mean": {"top_k": 50, "top_p": 0.9, "baseline": "mean"},
    "sampled, one token": {"top_k": 1},
    "sampled, mean, nll": {"baseline": "mean", "nll_weight": 0.5},
    "sampled, beta 0": {"beta": 0.0},
    "exact": {"estimator": "exact"},
    "exact, top_k, top_p": {"estimator": "exact", "top_k": 50, "top_p": 0.9},
    "exact, mean": {"estimator": "exact", "baseline": "mean"},
    "dft": {"objective": "dft"},
    "dft, nll": {"objective": "dft", "nll_weight": 0.5},
    "power": {"objective": "power", "alpha": 0.7},
    "power, nll": {"objective": "power", "alpha": 2, "nll_weight": 0.5},
    "eaft": {"objective": "eaft"},
    "eaft, nll": {"objective": "eaft", "nll_weight": 0.5},
    "sft, thresholds": {"objective": "sft", "min_label_prob": 1e-9, "max_label_prob": 0.99},
    "sft": {"objective": "sft"},
}
HAS_TRITON = importlib.util.find_spec("triton") is not None
KERNELS = ["torch", *(["triton"] if HAS_TRITON else [])]
V = 300
LABEL = 7


def with_nan(row):
    row[170] = torch.nan


def with_nan_at_the_label(row):
    row[LABEL] = torch.nan


def with_infinity(row):
    row[170] = torch.inf


def with_infinity_at_the_label(row):
    row[LABEL] = torch.inf


def with_nan_and_infinity(row):
    row[3], row[299] = torch.inf, torch.nan


def of_nan(row):
    row[:] = torch.nan


def of_minus_infinity(row):
    row[:] = -torch.inf


WITHOUT_LOSS = [function for name, function in list(globals().items()) if name.startswith(("with_", "of_"))]


def rows_of_logits(dtype):
    """Logits, and which rows have no loss: one after each row that has a loss."""
    logits = torch.randn(2 * len(WITHOUT_LOSS), V, generator=torch.Generator().manual_seed(1)).to(dtype)
    logits[2, 20:200] = -torch.inf  # tokens that cannot be drawn
    logits[4, LABEL] = -torch.inf
    for change, row in zip(WITHOUT_LOSS, logits[1::2], strict=True):
        change(row)
    return logits, torch.arange(len(logits)) % 2 == 1


def names_of(config):
    return [name for name in ROW_METRICS if config.has_rollout or name not in DRAW_METRICS]


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
CASES = [  # Triton's interpreter is slow, and its kernel computes in float32
    *(("torch", settings, dtype, softcap) for settings in SETTINGS for dtype in DTYPES for softcap in (None, 30.0)),
    *(("triton", settings, torch.float32, None) for settings in SETTINGS),
    *(("triton", "sampled, top_k", dtype, 30.0) for dtype in DTYPES[:3]),
]


@pytest.mark.parametrize(("kernel", "settings", "dtype", "softcap"), CASES, ids=str)
def test_a_row_without_a_loss_is_nan_and_changes_no_other_row(kernel, settings, dtype, softcap):
    if kernel not in KERNELS:
        pytest.skip("Triton is not installed")
    config = config_of(SETTINGS[settings], 16)
    logits, wrong = rows_of_logits(dtype)
    if softcap is not None:  # it makes infinite logits finite, as in the model itself
        logits = torch.where(logits.isinf(), torch.randn(V).to(dtype), logits)
        wrong = logits.isnan().any(1)
    labels = torch.full((len(logits),), LABEL)
    uniforms = torch.rand(len(logits), 16) if config.draws else None
    metrics, gradient = run_kernel(kernel, logits, labels, uniforms, config, V, softcap=softcap)
    good_uniforms = None if uniforms is None else uniforms[~wrong]
    wanted = run_kernel(kernel, logits[~wrong], labels[~wrong], good_uniforms, config, V, softcap=softcap)
    columns = [ROW_METRICS.index(name) for name in names_of(config)]
    assert metrics[wrong].isnan().all()
    assert gradient[wrong].isnan().all()
    assert not metrics[~wrong][:, columns].isnan().any()
    assert torch.equal(metrics[~wrong][:, columns], wanted[0][:, columns])
    assert torch.equal(gradient[~wrong], wanted[1])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_specification_is_nan_for_a_row_without_a_loss(settings):
    config = config_of(settings, 16)
    logits, wrong = rows_of_logits(torch.float64)
    for row, is_wrong in zip(logits, wrong, strict=True):
        z = row.unsqueeze(0).clone().requires_grad_()
        uniforms = torch.rand(1, 16) if config.draws else None
        loss, metrics = otr_loss_on_logits(z, torch.tensor([LABEL]), config, uniforms=uniforms)
        (gradient,) = torch.autograd.grad(loss, z)
        count = metrics.pop(TOKEN_COUNT)
        assert count == 1
        for name, value in {**metrics, "loss": loss}.items():
            assert value.isnan() == is_wrong, name
        assert gradient.isnan().all() == is_wrong


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("where", ["hidden", "weight", "bias"])
@pytest.mark.parametrize(
    ("kernel", "settings"),
    [*(("torch", settings) for settings in SETTINGS), ("triton", "sampled, top_p"), ("triton", "exact")],
)
def test_otr_loss_is_finite_where_the_specification_is(kernel, settings, where, value):
    """-inf in the bias is a token that cannot be drawn; everything else here leaves rows without a loss."""
    if kernel not in KERNELS:
        pytest.skip("Triton is not installed")
    config = config_of(SETTINGS[settings], 16, kernel=kernel)
    p = problem(4, 4, 140, samples=16, bias=True, masked=0, seed=3)
    changed = getattr(p, where).clone()
    changed[(2,) if where == "bias" else (2, 1)] = value
    p = replace(p, **{where: changed})
    p.labels[p.labels == 2] = 5
    want, got = truth(p, config), actual(p, config, torch.float32)
    values = {**want.metrics, "loss": want.loss, **want.gradients}
    for name, wanted in values.items():
        found = {**got.metrics, "loss": got.loss, **got.gradients}[name]
        assert torch.equal(found.isnan(), wanted.isnan()), name
        assert torch.equal(found.isinf(), wanted.isinf()), name
    if where == "hidden":
        broken = torch.arange(4) == 2
        assert torch.equal(got.gradients["hidden"].isnan().all(1), broken)
    elif not (where == "bias" and value == -torch.inf):
        assert all(metric.isnan() for name, metric in got.metrics.items() if name != TOKEN_COUNT)
