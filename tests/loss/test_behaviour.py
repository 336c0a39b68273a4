"""What a training loop needs besides correct numbers: reproducible draws, little memory, and autograd's rules."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss import uniforms
from otr_plugin.loss.memory_plan import CHUNK_BYTES, chunk_size

from .problems import actual, config_of, problem

CONFIG = OTRConfig(samples=32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_gives_the_same_bits():
    p = problem(64, 16, 3000, seed=1).to(torch.float32)

    def run(seed):
        out = otr_loss(p.hidden, p.weight, p.labels, CONFIG, generator=seeded(seed))
        return [out.loss, *torch.autograd.grad(out.loss, (p.hidden, p.weight))]

    first, again, other = run(1), run(1), run(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_uniforms_are_drawn_from_the_generator():
    p = problem(20, 8, 50, seed=2)
    by_generator = otr_loss(p.hidden, p.weight, p.labels, CONFIG, generator=seeded(3)).loss
    numbers = torch.rand(20, 32, generator=seeded(3))
    assert torch.equal(by_generator, otr_loss(p.hidden, p.weight, p.labels, CONFIG, uniforms=numbers).loss)


@pytest.mark.parametrize("block", [1, 33, 32 * 7, 2**22])
@pytest.mark.parametrize("chunk", ["auto", 1, 9])
@pytest.mark.parametrize("masked", [0, 0.5, 1], ids=lambda masked: f"{masked} masked")
def test_uniforms_made_in_blocks_are_those_of_one_call(masked, chunk, block, monkeypatch):
    monkeypatch.setattr(uniforms, "BLOCK_NUMBERS", block)
    p, config = problem(50, 8, 50, seed=2, masked=masked), OTRConfig(samples=32, chunk_tokens=chunk)
    generator, reference = seeded(3), seeded(3)
    loss = otr_loss(p.hidden, p.weight, p.labels, config, generator=generator).loss
    numbers = torch.rand(50, 32, generator=reference)
    torch.testing.assert_close(loss, otr_loss(p.hidden, p.weight, p.labels, config, uniforms=numbers).loss)
    assert torch.equal(generator.get_state(), reference.get_state()), "the next draws would be others"


def test_memory_does_not_grow_with_masked_positions_times_samples():
    p, config = problem(3000, 4, 9, seed=2, masked=0.99), OTRConfig(samples=4096)
    with Largest() as largest:
        otr_loss(p.hidden, p.weight, p.labels, config, generator=seeded(3))
    assert largest.elements <= 2**22 < 3000 * 4096 / 2


def test_memory_does_not_grow_with_positions_times_samples():
    """More draws than tokens: without blocks, each of several tensors would have 300 x 65536 elements of 8 bytes."""
    p, config = problem(300, 4, 2, seed=2, masked=0), OTRConfig(samples=65536)
    with Largest() as largest:
        loss = otr_loss(p.hidden, p.weight, p.labels, config, generator=seeded(3)).loss
    exact = otr_loss(p.hidden, p.weight, p.labels, OTRConfig(estimator="exact")).loss
    assert loss.item() == pytest.approx(exact.item(), abs=2e-3)
    assert largest.bytes <= 2**26 < 8 * 300 * 65536 / 2


@pytest.mark.parametrize("settings", [{"estimator": "exact"}, {"objective": "dft"}, {"objective": "sft"}], ids=str)
def test_objectives_without_draws_use_no_random_numbers(settings):
    p = problem(20, 8, 50, seed=2)
    generator = seeded(3)
    before = generator.get_state(), torch.get_rng_state()
    otr_loss(p.hidden, p.weight, p.labels, OTRConfig(**settings), generator=generator)
    assert torch.equal(before[0], generator.get_state())
    assert torch.equal(before[1], torch.get_rng_state())


def test_with_a_generator_the_global_one_is_unchanged():
    p = problem(20, 8, 50, seed=2)
    before = torch.get_rng_state()
    otr_loss(p.hidden, p.weight, p.labels, CONFIG, generator=seeded(3))
    assert torch.equal(before, torch.get_rng_state())


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that is created while the mode is active."""

    def __init__(self):
        super().__init__()
        self.elements = self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for t in out if isinstance(out, tuple | list) else [out]:
            if isinstance(t, torch.Tensor):
                self.elements = max(self.elements, t.untyped_storage().nbytes() // t.itemsize)
                if t.dtype != torch.uint8:  # memory_plan.buffer allocates and frees bytes, to find out if they are free
                    self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("settings", [{}, {"estimator": "exact", "top_p": 0.9}, {"objective": "sft"}], ids=str)
def test_only_one_chunk_of_logits_is_in_memory(settings):
    n, v, chunk = 300, 5000, 16
    p = problem(n, 8, v, seed=4, masked=0.1)
    p.hidden.requires_grad_()
    with Largest() as largest:
        actual(p, config_of(settings, chunk_tokens=chunk))
    scratch = 4 * chunk * (v + 64)  # of the PyTorch kernel, for a block that is here the whole chunk
    assert chunk * v <= largest.elements <= scratch
    assert largest.elements < n * v / 4


def test_auto_chunks_are_few_and_even_and_fit_the_budget():
    for count, row in ((1, 8), (512, 151936 * 4), (1024, 151936 * 4), (4096, 151936 * 4), (8192, 32000 * 2)):
        size = chunk_size(count, row, "auto", CHUNK_BYTES)
        chunks = -(-count // size)
        assert size * row <= CHUNK_BYTES
        assert chunks == max(1, -(-count // (CHUNK_BYTES // row)))
        assert size - count // chunks <= 1
    assert chunk_size(100, 10 * CHUNK_BYTES, "auto", CHUNK_BYTES) == 1
    assert chunk_size(100, 10 * CHUNK_BYTES, 7, CHUNK_BYTES) == 7


def test_masked_positions_enter_no_matrix_product():
    p = problem(200, 8, 50, masked=0.9, seed=5)
    flops = []

    class Gemms(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "mm" in str(func):
                flops.append(args[0].shape)
            return func(*args, **kwargs or {})

    p.hidden.requires_grad_()
    with Gemms():
        actual(p, CONFIG)
    trained = int((p.labels != -100).sum())
    assert flops == [(trained, 8), (trained, 50)]


def test_no_gradient_is_computed_when_gradients_are_disabled():
    p = problem(30, 8, 50, seed=6).to(torch.float32)
    gemms = []

    class Gemms(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            gemms.extend([func] if "mm" in str(func) else [])
            return func(*args, **kwargs or {})

    want = actual(p, CONFIG).loss
    with torch.no_grad(), Gemms():
        out = otr_loss(p.hidden, p.weight, p.labels, CONFIG, uniforms=p.uniforms)
    assert len(gemms) == 1
    assert torch.equal(out.loss, want)
    assert not out.loss.requires_grad
    with torch.inference_mode():
        out = otr_loss(p.hidden, p.weight, p.labels, CONFIG, uniforms=p.uniforms)
    assert torch.equal(out.loss, want)


def test_backward_scales_the_gradient_and_can_run_twice():
    p = problem(12, 8, 40, seed=7).to(torch.float32)
    loss = otr_loss(p.hidden, p.weight, p.labels, CONFIG, uniforms=p.uniforms).loss
    once = torch.autograd.grad(loss, (p.hidden, p.weight), retain_graph=True)
    kept = [g.clone() for g in once]
    thrice = torch.autograd.grad(loss * 3, (p.hidden, p.weight), retain_graph=True)
    for first, copy_of_first, other in zip(once, kept, thrice, strict=True):
        assert torch.equal(first, copy_of_first)
        torch.testing.assert_close(other, 3 * first)
    torch.autograd.grad(loss, p.hidden)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, p.hidden)


def test_a_second_derivative_raises():
    p = problem(5, 4, 9, seed=8).to(torch.float32)
    loss = otr_loss(p.hidden, p.weight, p.labels, CONFIG, uniforms=p.uniforms).loss
    (gradient,) = torch.autograd.grad(loss**2, p.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_metrics_are_detached_and_inputs_are_unchanged():
    p = problem(12, 8, 40, bias=True, seed=9).to(torch.float32)
    before = copy.deepcopy(p)
    out = otr_loss(p.hidden, p.weight, p.labels, CONFIG, bias=p.bias, uniforms=p.uniforms)
    out.loss.backward()
    assert not any(value.requires_grad for value in out.metrics.values())
    for name in ("hidden", "weight", "bias", "labels", "uniforms"):
        assert torch.equal(getattr(p, name), getattr(before, name))


# After the graph break, Dynamo reads .grad of tensors that are not leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_function_gives_the_same_result():
    p = problem(12, 8, 40, seed=10).to(torch.float32)
    want = actual(p, CONFIG)

    def step(hidden, weight):
        return otr_loss(hidden * 1.0, weight, p.labels, CONFIG, uniforms=p.uniforms).loss * 1.0

    loss = torch.compile(step, backend="eager")(p.hidden, p.weight)
    torch.testing.assert_close(loss.detach(), want.loss, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(loss, p.hidden)
    torch.testing.assert_close(gradient, want.gradients["hidden"], rtol=0, atol=0)


def test_an_unchecked_label_out_of_range_makes_loss_and_gradient_nan(monkeypatch):
    """On a GPU the values of labels are not checked. The loss must be NaN, and nothing out of bounds may be read."""
    from otr_plugin.loss import checks

    monkeypatch.setattr(checks, "_check_label_values", lambda labels, vocabulary: None)
    for label in (40, 41, 10**12, -1, -101):
        for settings in ({"samples": 32}, {"estimator": "exact"}, {"objective": "dft"}, {"objective": "sft"}):
            p = problem(6, 8, 40, masked=0, seed=11).to(torch.float32)
            p.labels[2] = label
            result = actual(p, OTRConfig(**settings))
            assert result.loss.isnan()
            assert result.gradients["hidden"].isnan().any(1).tolist() == [False] * 2 + [True] + [False] * 3


def test_nan_in_hidden_makes_the_loss_nan_but_no_other_gradient():
    p = problem(6, 8, 40, masked=0, seed=12).to(torch.float32)
    p.hidden.data[1, 3] = torch.nan
    for settings in (
        {"samples": 32},
        {"estimator": "exact"},
        {"top_k": 3, "samples": 32},
        {"objective": "sft"},
    ):
        result = actual(p, OTRConfig(**settings))
        assert result.loss.isnan()
        assert not result.gradients["hidden"][2:].isnan().any()


OF_THE_TORCH_KERNEL = (
    {"samples": 32},
    {"samples": 32, "baseline": "mean", "top_k": 5},
    {"estimator": "exact"},
    *({"objective": objective} for objective in ("dft", "power", "eaft", "sft")),
)
PADDING_CASES = [
    (settings, softcap)
    for settings in (*OF_THE_TORCH_KERNEL, {"objective": "sft", "kernel": "triton"})
    for softcap in (None, 30.0)
]


@pytest.mark.parametrize(("settings", "softcap"), PADDING_CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_padding_of_the_logits_changes_nothing(dtype, settings, softcap, monkeypatch):
    """On a CPU, products in bfloat16 read one number beyond a row of an odd length: it must not be what memory held."""
    from otr_plugin.loss import memory_plan

    p = problem(17, 8, 77, masked=0, seed=13, softcap=softcap)
    config = OTRConfig(**settings)
    want = actual(p, config, dtype)
    buffer = memory_plan.buffer
    monkeypatch.setattr(memory_plan, "buffer", lambda *arguments: buffer(*arguments).fill_(torch.nan))
    got = actual(p, config, dtype)
    for name, gradient in got.gradients.items():
        assert torch.equal(gradient, want.gradients[name])
        assert not gradient.isnan().any()
