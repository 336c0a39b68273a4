"""The Triton kernel matches the PyTorch kernel to rounding. Without a GPU, it runs in Triton's interpreter."""

import importlib
import random

import pytest
import torch

from benchmarks.gpu.kernels import compile_for, without_interpreter
from otr_plugin import OTRConfig, otr_loss
from otr_plugin.config import OBJECTIVES
from otr_plugin.loss import dispatch, torch_kernel
from otr_plugin.loss.tuned import Settings
from otr_plugin.metrics import ROW_METRICS

from . import problems
from .problems import config_of, problem
from .test_parity import CONFIGS, check

pytest.importorskip("triton")
MODULES = {"torch": "torch_kernel", "triton": "triton.launch"}
HIT_RATE = ROW_METRICS.index("hit_rate")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def on_the_gpu_if_there_is_one(monkeypatch):
    monkeypatch.setattr(problems, "DEVICE", DEVICE)


def run_kernel(kernel, logits, labels, uniforms, config, v, *, token_weights=None, **options):
    """Run one kernel on a copy of the logits: (row metrics, gradient) in float64, on the CPU."""
    logits = torch.nn.functional.pad(logits, (0, torch_kernel.padded(v) - v)).to(DEVICE)
    row_metrics = torch.full(
        (len(logits), len(ROW_METRICS)), -7.0, dtype=torch_kernel.precise(logits.dtype), device=DEVICE
    )
    uniforms = None if uniforms is None else uniforms.to(DEVICE)
    if token_weights is not None:
        token_weights = token_weights.to(row_metrics)
    options = {"logit_scale": 1.0, "softcap": None, "with_grad": True} | options
    compute_chunk = importlib.import_module(f"otr_plugin.loss.{MODULES[kernel]}").compute_chunk
    compute_chunk(
        logits,
        labels.to(DEVICE),
        uniforms,
        row_metrics,
        config,
        vocabulary=v,
        token_weights=token_weights,
        **options,
    )
    return row_metrics.double().cpu(), logits[:, :v].double().cpu()


def compare(logits, labels, uniforms, config, v, **options):
    """Compare Triton's kernel with PyTorch's in float64 on the same logits."""
    want_metrics, want = run_kernel("torch", logits.double(), labels, uniforms, config, v, **options)
    row_metrics, gradient = run_kernel("triton", logits, labels, uniforms, config, v, **options)
    assert torch.equal(row_metrics.isnan(), want_metrics.isnan())
    # The size of the terms that are summed in float32 and may cancel. The result is rounded to the logits' dtype.
    unit = abs(options.get("logit_scale", 1.0)) * (1 + abs(config.beta) + config.nll_weight)
    step = torch.finfo(logits.dtype).eps if logits.dtype != torch.float32 else 2e-6
    off = (gradient - want).abs()
    wrong = off > step * want.abs().amax(1, keepdim=True) + 1e-6 * unit
    if config.draws:  # rounding can move a few draws at the edge of a bin to the next token
        assert (off <= 2.5 * unit / config.samples).all()
        hits, want_hits = ((s[:, HIT_RATE] * config.samples).round() for s in (row_metrics, want_metrics))
        assert (hits != want_hits).sum() <= 1
        assert wrong[hits == want_hits].sum() <= 0.01 * len(labels) * config.samples
    else:
        assert not wrong.any()
    good = ~wrong.any(1)
    for name, got, expected in zip(ROW_METRICS, row_metrics[good].T, want_metrics[good].T, strict=True):
        torch.testing.assert_close(got, expected, rtol=3e-6, atol=3e-6, equal_nan=True, msg=name)


def random_case(seed):
    """A random input with random settings within the allowed bounds, also such as have no effect."""
    draw = random.Random(seed)
    g = torch.Generator().manual_seed(seed)
    v = draw.choice([1, 2, 3, 127, 128, 129, 1000, 4095, 4097, draw.randint(5, 9000)])
    samples = draw.choice([1, 2, 31, 32, 33, 100, draw.randint(1, 300)])
    settings = {
        "samples": samples,
        "temperature": 10 ** draw.uniform(-1, 1),
        "beta": draw.uniform(-2, 0.9),
        "estimator": draw.choice(["sampled", "sampled", "exact"]),
        "objective": draw.choice(["otr"] * 6 + ["dft", "power", "eaft", "eaft", "sft"]),
        "alpha": 10 ** draw.uniform(-2, 1),
        "baseline": draw.choice(["none", "none", "mean"]),
        "nll_weight": draw.choice([0.0, 0.0, 0.4]),
    }
    logits = torch.randn(3, v, generator=g) * draw.choice([0.0, 0.1, 1.0, 5.0, 50.0])
    if draw.random() < 0.2:
        logits = logits.round()  # ties
    labels = torch.randint(0, v, (3,), generator=g)
    if draw.random() < 0.3:
        labels = logits.argmax(-1)
    if v > 2 and draw.random() < 0.2:
        out = torch.rand(3, v, generator=g) < 0.5
        logits = logits.masked_fill(out.scatter(1, labels.unsqueeze(1), False), -torch.inf)
    logits = logits.to(draw.choice([torch.float32, torch.float32, torch.float16]))
    options = draw.choice([{}, {}, {"logit_scale": -0.5}, {"softcap": 3.0}, {"logit_scale": 2.0, "softcap": 30.0}])
    if options:  # a negative scale or a softcap makes -inf a logit that is not excluded
        logits = logits.nan_to_num(neginf=-1e4)
    return logits, labels, torch.rand(3, samples, generator=g), OTRConfig.model_construct(**settings), v, options


@pytest.mark.parametrize("seed", range(60))
def test_triton_matches_the_pytorch_kernel(seed):
    logits, labels, uniforms, config, v, options = random_case(seed)
    compare(logits, labels, uniforms if config.draws else None, config, v, **options)


@pytest.mark.parametrize("settings", [{"samples": 40}, {"estimator": "exact"}, {"objective": "eaft"}], ids=str)
@pytest.mark.parametrize("thresholds", [{}, {"min_label_prob": 0.01, "max_label_prob": 0.3}], ids=str)
def test_token_weights_and_thresholds_match_the_pytorch_kernel(thresholds, settings):
    g = torch.Generator().manual_seed(7)
    config = OTRConfig(**settings, **thresholds, nll_weight=0.5)
    uniforms = torch.rand(8, 40, generator=g) if config.draws else None
    logits = torch.randn(8, 300, generator=g) * 2
    for row, p_label in enumerate([0.001, 0.009, 0.011, 0.1, 0.29, 0.31, 0.9, 0.2]):
        others = logits[row, 1:].logsumexp(-1)
        logits[row, 0] = others + torch.tensor(p_label).logit()
    labels, weights = torch.zeros(8).long(), torch.tensor([1, 2, 0.5, 3, 1, 1, 1, 0])
    compare(logits, labels, uniforms, config, 300, token_weights=weights)


@pytest.mark.parametrize("settings", [{"samples": 40}, {"estimator": "exact"}], ids=str)
def test_a_softcap_far_above_the_logits_is_accurate(settings):
    """tanh of small numbers must be accurate, because the cap multiplies its error."""
    g = torch.Generator().manual_seed(6)
    config = OTRConfig(**settings)
    uniforms = torch.rand(3, 40, generator=g) if config.draws else None
    compare(torch.randn(3, 300, generator=g), torch.arange(3), uniforms, config, 300, softcap=1e4)


@pytest.mark.parametrize("samples", [1, 1000, 1024])
def test_many_draws_from_a_long_row_match_the_pytorch_kernel(samples):
    logits = torch.randn(2, 40_001, generator=torch.Generator().manual_seed(samples)) * 3
    uniforms = torch.rand(2, samples, generator=torch.Generator().manual_seed(1))
    compare(logits, torch.tensor([40_000, 7]), uniforms, OTRConfig(samples=samples), 40_001)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 2), (5, 8, 129), (9, 8, 700)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_otr_loss_with_triton_matches_the_specification(shape, dtype, config):
    config = config_of(config, kernel="triton")
    p = problem(*shape, samples=config.samples, bias=True, seed=sum(shape), dtype=dtype)
    check(p, config, dtype)


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_huge_logits_match_the_specification(size, config):
    config = config_of(config, kernel="triton")
    p = problem(6, 8, 130, samples=config.samples, sharpness=size, seed=22)
    check(p, config, torch.float32)


@pytest.mark.parametrize("settings", [{"samples": 8}, {"estimator": "exact"}, {"objective": "sft"}], ids=str)
@pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")  # numpy, in Triton's interpreter
def test_logits_at_the_ends_of_float32_match_the_pytorch_kernel(settings):
    logits = torch.randn(4, 5000, generator=torch.Generator().manual_seed(7))
    logits[0] = -torch.inf
    logits[0, 4000] = -3e38  # the largest logit of its row
    logits[1] = -2e38
    logits[1, 3] = -1.9e38
    logits[2, 4000] = 2e38
    logits[2, :4000] = -2e38  # the largest logit of the blocks before, far below that of the row
    labels = torch.tensor([4000, 3, 4000, 3])
    config = OTRConfig(**settings)
    uniforms = torch.rand(4, 8, generator=torch.Generator().manual_seed(8)) if config.draws else None
    metrics, gradient = run_kernel("triton", logits, labels, uniforms, config, 5000)
    assert not metrics[:, HIT_RATE].isnan().any() or not config.has_rollout
    assert not gradient.isnan().any()
    compare(logits, labels, uniforms, config, 5000)


def test_the_same_input_gives_the_same_bits():
    logits, labels, uniforms, config, v, options = random_case(2)
    config = config.model_copy(update={"objective": "otr", "estimator": "sampled"})
    first, second = (run_kernel("triton", logits, labels, uniforms, config, v, **options) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("settings", [{"samples": 16}, {"estimator": "exact"}, {"objective": "sft"}], ids=str)
def test_without_gradient_the_logits_are_unchanged(settings):
    logits, labels = torch.randn(2, 300), torch.tensor([4, 299])
    uniforms = torch.rand(2, 16)
    config = OTRConfig(**settings)
    row_metrics, after = run_kernel(
        "triton", logits, labels, uniforms if config.draws else None, config, 300, with_grad=False
    )
    assert torch.equal(after.float(), logits)
    want, _ = run_kernel("torch", logits, labels, uniforms if config.draws else None, config, 300, with_grad=False)
    torch.testing.assert_close(row_metrics, want, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-24, 1 - 2**-53])
@pytest.mark.parametrize("alive", [[3], [3, 70], [299], [127, 128], [290, 4500], range(200, 2300, 7)], ids=str)
def test_a_token_of_probability_zero_is_never_drawn(alive, u):
    """The gradient of a token with p = 0 is 0 unless the token is drawn."""
    v = 5000
    logits = torch.full((4, v), -torch.inf)
    logits[:, alive] = torch.linspace(0, 1, len(alive))
    labels = torch.tensor([3, 5, 299, v - 1])
    row_metrics, gradient = run_kernel(
        "triton", logits, labels, torch.full((4, 9), u, dtype=torch.float64), OTRConfig(samples=9), v
    )
    dead = logits.isinf()
    assert not gradient[dead].any()
    assert row_metrics[:, ROW_METRICS.index("objective")].isfinite().all(), (
        "a token that is never drawn has an infinite NLL, which must not enter"
    )
    drawn_or_alive = gradient.abs().sum(1) + row_metrics[:, HIT_RATE]
    assert len(alive) == 1 or (drawn_or_alive > 0).all()


@pytest.mark.parametrize("label", [-5, 300, 2**40])
def test_a_label_out_of_range_makes_its_own_row_nan(label):
    logits, labels = torch.randn(2, 300), torch.tensor([label, 3])
    row_metrics, gradient = run_kernel("triton", logits, labels, torch.rand(2, 256), OTRConfig(), 300)
    assert row_metrics[0].isnan().all()
    assert gradient[0].isnan().all()
    assert not row_metrics[1].isnan().any()
    assert not gradient[1].isnan().any()


# The interpreter computes with numpy, which warns of overflow and NaN where a GPU does not.
@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
@pytest.mark.parametrize("kernel", MODULES)
@pytest.mark.parametrize(
    "settings", [{}, {"estimator": "exact"}, *({"objective": name} for name in OBJECTIVES[1:])], ids=str
)
def test_nan_logits_make_their_own_row_nan(settings, kernel):
    logits, labels, config = torch.randn(2, 300), torch.tensor([7, 3]), config_of(settings, 16)
    logits[0] = torch.nan
    uniforms = torch.rand(2, 16) if config.draws else None
    row_metrics, gradient = run_kernel(kernel, logits, labels, uniforms, config, 300)
    columns = [ROW_METRICS.index(name) for name in ("nll", "objective")]
    assert row_metrics[0, columns].isnan().all()
    assert gradient[0].isnan().all()
    assert not row_metrics[1, columns].isnan().any()
    assert not gradient[1].isnan().any()


def test_the_number_of_programs_does_not_change_the_result(monkeypatch):
    """Programs that process several rows reuse their scratch memory; no value of one row may reach the next."""
    launch = importlib.import_module("otr_plugin.loss.triton.launch")
    g = torch.Generator().manual_seed(3)
    logits, labels, uniforms = torch.randn(7, 500, generator=g), torch.arange(7), torch.rand(7, 20, generator=g)
    results = []
    for programs in (1, 3, 7, 20):
        monkeypatch.setattr(launch, "settings_of", lambda architecture: Settings(programs=1))
        monkeypatch.setattr(launch, "_processors", lambda device, programs=programs: programs)
        results.append(run_kernel("triton", logits, labels, uniforms, OTRConfig(samples=20), 500))
    for row_metrics, gradient in results[1:]:
        assert torch.equal(row_metrics, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_rows_can_be_more_than_two_to_the_31_elements_apart():
    """The third row starts 2**31 elements after the first. Pages that are never accessed take no memory."""
    far, v = 2**30, 200
    far_rows = torch.empty(2 * far + v, dtype=torch.float16, device=DEVICE).as_strided((3, v), (far, 1))
    logits = torch.randn(3, v, generator=torch.Generator().manual_seed(4)).half()
    far_rows.copy_(logits)
    row_metrics = torch.empty(3, len(ROW_METRICS), device=DEVICE)
    labels, uniforms = torch.tensor([3, 199, 0], device=DEVICE), torch.rand(3, 50, device=DEVICE)
    config = OTRConfig(samples=50)
    options = {"vocabulary": v, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    compute_chunk = importlib.import_module("otr_plugin.loss.triton.launch").compute_chunk
    compute_chunk(far_rows, labels, uniforms, row_metrics, config, **options)
    logits_nearby, want = logits.to(DEVICE), torch.empty_like(row_metrics)
    compute_chunk(logits_nearby, labels, uniforms, want, config, **options)
    assert torch.equal(row_metrics, want)
    assert torch.equal(far_rows, logits_nearby)


@pytest.fixture
def no_cached_trial():
    dispatch._why_trial_fails.cache_clear()
    dispatch._warn_once.cache_clear()
    yield
    dispatch._why_trial_fails.cache_clear()


def test_auto_warns_once_and_uses_pytorch_if_triton_fails(no_cached_trial, monkeypatch):
    def no_compiler(*args, **options):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(dispatch, "_triton_kernel", lambda: no_compiler)
    monkeypatch.setattr(dispatch, "GPUS", ("cpu", "cuda"))  # treats the CPU as a GPU
    device = torch.device(DEVICE)
    message = (
        "PyTorch's slower kernel computes the loss: on a test chunk, Triton's kernel failed with RuntimeError: Failed"
    )
    with pytest.warns(RuntimeWarning, match=message):
        assert dispatch.choose_kernel("auto", device, torch.float32) is torch_kernel.compute_chunk
    assert dispatch.choose_kernel("auto", device, torch.float32) is torch_kernel.compute_chunk
    p = problem(5, 4, 30, seed=1).on(DEVICE)
    message = "kernel: expected auto or torch, got triton, which cannot be used here: on a test chunk, Triton's kernel"
    with pytest.raises(ValueError, match=f"{message} failed"):
        otr_loss(p.hidden, p.weight, p.labels, OTRConfig(kernel="triton"))


def test_wrong_results_on_the_test_chunk_are_detected(no_cached_trial, monkeypatch):
    def nothing(*args, **options):
        pass

    monkeypatch.setattr(dispatch, "_triton_kernel", lambda: nothing)
    why = dispatch.why_not_triton(torch.device(DEVICE), torch.float32)
    assert "on a test chunk, the results of Triton's kernel differ from PyTorch's by up to" in why


def test_float64_uses_the_pytorch_kernel(no_cached_trial):
    p = problem(5, 4, 30, seed=1, dtype=torch.float64).on(DEVICE)
    otr_loss(p.hidden, p.weight, p.labels, OTRConfig(samples=32))
    with pytest.raises(ValueError, match="Triton's kernel computes in float32, and hidden is float64"):
        otr_loss(p.hidden, p.weight, p.labels, OTRConfig(kernel="triton"))


def test_auto_selects_triton_only_on_a_gpu():
    device = torch.device(DEVICE)
    assert dispatch.choose_kernel("triton", device, torch.float32).__module__ == "otr_plugin.loss.triton.launch"
    assert dispatch.choose_kernel("torch", device, torch.float32) is torch_kernel.compute_chunk
    assert (dispatch.choose_kernel("auto", device, torch.float32) is torch_kernel.compute_chunk) == (DEVICE == "cpu")


def test_an_unknown_objective_fails_inside_the_loss_kernel(monkeypatch):
    from triton.errors import TritonError

    launch = importlib.import_module("otr_plugin.loss.triton.launch")
    monkeypatch.setattr(launch, "_objective", lambda config: -1)
    with pytest.raises(TritonError, match="OBJECTIVE is not implemented; SFT, DFT, POWER, EAFT, EXACT and SAMPLED are"):
        run_kernel("triton", torch.zeros(2, 300), torch.arange(2), None, OTRConfig(objective="sft"), 300)


@pytest.mark.parametrize("change", [("nll", "objective"), ("nll", "unsampled"), ("reward", "hit_rate")], ids=str)
def test_the_columns_of_the_metrics_follow_row_metrics(change, monkeypatch):
    """With two names exchanged in launch.METRIC_COLUMNS, the same two columns of the result are exchanged."""
    launch = importlib.import_module("otr_plugin.loss.triton.launch")
    logits, labels, uniforms = torch.randn(2, 300), torch.tensor([4, 299]), torch.rand(2, 16)
    config = OTRConfig(samples=16, nll_weight=0.5)
    before, _ = run_kernel("triton", logits, labels, uniforms, config, 300)
    order = list(range(len(ROW_METRICS)))
    first, second = (ROW_METRICS.index(name) for name in change)
    order[first], order[second] = second, first
    columns = {f"{name.upper()}_COLUMN": order[i] for i, name in enumerate(ROW_METRICS)}
    monkeypatch.setattr(launch, "METRIC_COLUMNS", launch.METRIC_COLUMNS | columns)
    after, _ = run_kernel("triton", logits, labels, uniforms, config, 300)
    assert not torch.equal(before, after)
    assert torch.equal(before[:, order], after)


def test_the_loss_kernel_has_a_column_for_every_metric():
    launch = importlib.import_module("otr_plugin.loss.triton.launch")
    columns = [name for name in launch.loss_kernel.arg_names if name.endswith("_COLUMN")]
    assert columns == [f"{name.upper()}_COLUMN" for name in ROW_METRICS]


COMPILED = {"sm_80": "fp16", "sm_89": "bf16", "sm_90": "fp32", "gfx942": "bf16"}
PLAIN = ("sft", "dft", "power", "eaft", "exact", "sampled")
WITH_OPTIONS = ("eaft, all options", "exact, all options", "sampled, all options", "top_k and top_p, all options")


@pytest.mark.parametrize("target", COMPILED)
def test_kernels_compile_for_gpus_without_atomics_and_nearly_without_spills(target):
    compiled = compile_for(target, "--logits", COMPILED[target], "--only", *PLAIN, *WITH_OPTIONS)
    assert [one["variant"] for one in compiled] == [*PLAIN, *WITH_OPTIONS]
    for one in compiled:
        assert one["binary"] > 10_000, one
        assert one["atomics"] == 0, one
        draws_or_all = one["variant"] == "sampled" or one["variant"] in WITH_OPTIONS
        assert one["spilled"] <= (16 if draws_or_all else 0), one  # bytes of a thread
        assert one["programs"] >= 2, one


def test_spills_are_seen():
    """With 64 registers a thread, the kernel that draws would spill."""
    code = (
        "import triton\n"
        "from benchmarks.gpu import compiled as c\n"
        "original = triton.compile\n"
        "triton.compile = lambda *args, options, **more: original(*args, options=options | {'maxnreg': 64}, **more)\n"
        "print(c.figures(c.compiled(c.VARIANTS['sampled'], c.PROCESSORS['sm_90'].target, c.Settings()))['spilled'])"
    )
    done = without_interpreter("-c", code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 16


def test_an_unknown_objective_does_not_compile():
    code = (
        "from benchmarks.gpu import compiled as c\n"
        "variant = c.VARIANTS['sft']\n"
        "variant.constants['OBJECTIVE'] = -1\n"
        "c.compiled(variant, c.PROCESSORS['sm_90'].target, c.Settings())"
    )
    done = without_interpreter("-c", code)
    assert "OBJECTIVE is not implemented; SFT, DFT, POWER, EAFT, EXACT and SAMPLED are" in done.stderr
