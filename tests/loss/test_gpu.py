"""Tests that need a GPU: all of test_parity.py, how often the CPU waits, and more than 2**31 logits."""

import pytest
import torch

from otr_plugin import OTRConfig, otr_loss

from . import problems
from .problems import config_of, problem
from .test_parity import *  # noqa: F403 - pytest collects these tests here too, and runs them on the GPU
from .test_parity import CONFIGS, SHAPES, check

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and PyTorch finds none"),
]


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch):
    monkeypatch.setattr(problems, "DEVICE", "cuda")


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_pytorch_kernel_matches_the_specification_on_a_gpu(shape, config):
    config = config_of(config, kernel="torch")
    check(problem(*shape, samples=config.samples, bias=True, seed=sum(shape)), config, torch.float32)


@pytest.mark.parametrize("settings", [{}, {"estimator": "exact"}, {"objective": "sft"}], ids=str)
def test_a_step_waits_for_the_device_once(settings):
    """The CPU waits for the number of trained positions, and for nothing else."""
    p = problem(64, 32, 1000, dtype=torch.bfloat16).to(torch.bfloat16).on("cuda")
    hidden, weight = p.hidden.detach().requires_grad_(), p.weight.detach().requires_grad_()
    config = config_of(settings)

    def step():
        otr_loss(hidden, weight, p.labels, config, generator=generator).loss.backward()

    generator = torch.Generator("cuda").manual_seed(0)
    step()  # compiles the kernel, and runs the trials whose results are cached
    waits = []
    original = torch.Tensor.cpu
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.MonkeyPatch.context() as patch:

            def cpu(self):
                torch.cuda.set_sync_debug_mode("default")
                waits.append(1)
                result = original(self)
                torch.cuda.set_sync_debug_mode("error")
                return result

            patch.setattr(torch.Tensor, "cpu", cpu)
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits == [1]


def test_a_chunk_can_have_more_than_two_to_the_31_logits():
    n, v = 17_000, 131_072
    assert n * v > 2**31
    hidden = torch.randn(n, 16, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(v, 16, device="cuda", dtype=torch.bfloat16)
    labels = torch.randint(0, v, (n,), device="cuda")
    uniforms = torch.rand(n, 16, device="cuda")
    last = slice(n - 64, n)
    results = []
    for rows, settings in ((slice(0, n), {"chunk_tokens": n}), (last, {})):
        h = hidden[rows].detach().requires_grad_()
        config = config_of(settings, 16)
        otr_loss(h, weight, labels[rows], config, num_items=1, uniforms=uniforms[rows]).loss.backward()
        results.append(h.grad[-64:])
    assert torch.equal(*results)


def test_another_stream_gives_the_same_gradient():
    p = problem(40, 16, 3000, samples=32).to(torch.float32).on("cuda")
    config = OTRConfig(samples=32)

    def gradient():
        h = p.hidden.detach().requires_grad_()
        otr_loss(h, p.weight.detach(), p.labels, config, uniforms=p.uniforms).loss.backward()
        return h.grad

    want = gradient()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = gradient()
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(got, want)
