"""How much memory a chunk takes, and what happens if less is free."""

import os
import subprocess
import sys
import types

import pytest
import torch

from otr_plugin import OTRConfig
from otr_plugin.loss import memory_plan
from otr_plugin.loss.tuned import Settings

from .problems import actual, error, problem


def device_with(free, total=24 << 30, reserved=0, allocated=0, fraction=None):
    module = types.SimpleNamespace(
        mem_get_info=lambda device: (free, total),
        memory_reserved=lambda device: reserved,
        memory_allocated=lambda device: allocated,
    )
    if fraction is not None:
        module.get_per_process_memory_fraction = lambda device: fraction
    return module


@pytest.mark.parametrize(
    ("memory", "want"),
    [
        ({"free": 20 << 30}, Settings().chunk_bytes),
        ({"free": 1 << 30}, 1 << 28),
        ({"free": 1 << 30, "reserved": 3 << 30, "allocated": 2 << 30}, 1 << 29),  # PyTorch can reuse reserved memory
        ({"free": 20 << 30, "fraction": 0.5, "reserved": 11 << 30, "allocated": 11 << 30}, 1 << 28),
        ({"free": 20 << 30, "fraction": 0.5, "reserved": 13 << 30, "allocated": 13 << 30}, 0),
    ],
    ids=str,
)
def test_the_budget_of_a_gpu_is_a_share_of_its_free_memory(memory, want, monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: device_with(**memory))
    monkeypatch.setattr(memory_plan, "architecture", lambda device: "sm_90")
    assert memory_plan.budget(torch.device("cuda")) == want


def test_the_budget_of_a_cpu_is_fixed():
    assert memory_plan.budget(torch.device("cpu")) == memory_plan.CHUNK_BYTES


ERRORS = {  # as PyTorch raises them
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "Linux": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "Windows": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate 8 byte"
    ),
}


@pytest.fixture
def no_warning_yet():
    memory_plan._warn_once.cache_clear()


@pytest.mark.parametrize("raised", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("chunk", ["auto", 40, 13])
def test_short_memory_makes_chunks_smaller_and_keeps_the_result(chunk, raised, monkeypatch, no_warning_yet):
    """Simulates a device where at most 5 rows of logits and their temporaries fit."""
    p = problem(40, 8, 500, bias=True, masked=0.2, seed=5)
    config = OTRConfig(samples=32, chunk_tokens=chunk)
    whole = actual(p, config, torch.float32)
    original, sizes = torch.Tensor.new_empty, []

    def short_of_memory(self, *shape, **options):
        if len(shape) == 2 and shape[1] == 512 and shape[0] > 5:
            raise raised
        if options.get("dtype") == torch.uint8:
            sizes.append(shape)
        return original(self, *shape, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", short_of_memory)
    message = "memory is short on cpu: the loss computes fewer positions at a time than planned, with the same result"
    with pytest.warns(RuntimeWarning, match=message):
        parts = actual(p, config, torch.float32)
    actual(p, config, torch.float32)  # a second warning would be an error
    assert len(sizes) == 2
    torch.testing.assert_close(parts.loss, whole.loss, rtol=2e-6, atol=1e-7)
    for name, gradient in parts.gradients.items():
        assert error(gradient, whole.gradients[name]) < 2e-6


@pytest.mark.parametrize("raised", ERRORS.values(), ids=ERRORS)
def test_no_memory_for_one_row_raises_the_error_with_what_to_do(raised, monkeypatch, no_warning_yet):
    raised = type(raised)(*raised.args)  # the message is changed in place
    own = str(raised)

    def no_memory(self, *shape, **options):
        raise raised

    p = problem(8, 8, 50)
    monkeypatch.setattr(torch.Tensor, "new_empty", no_memory)
    with pytest.raises(type(raised), match="otr: out of memory in the loss") as caught:
        actual(p, OTRConfig(samples=32), torch.float32)
    assert caught.value is raised
    assert str(raised).startswith(own)
    assert "set chunk_tokens to a smaller number" in str(raised)
    assert str(raised).count("otr:") == 1
    assert len(raised.args) == 1


LIMITED = """
import resource, sys, torch
from otr_plugin import OTRConfig, otr_loss
torch.manual_seed(0)
hidden, weight = torch.randn(400, 8, requires_grad=True), torch.randn(100_000, 8, requires_grad=True)
labels, uniforms = torch.randint(100_000, (400,)), torch.rand(400, 16)
config = OTRConfig(samples=16)
def run():
    loss = otr_loss(hidden, weight, labels, config, uniforms=uniforms).loss
    return [loss, *torch.autograd.grad(loss, (hidden, weight))]
whole = [t.detach().clone() for t in run()]  # 160 MB of logits; it also loads what the loss needs
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[1]) * 10**6,) * 2)
short = run()
for a, b in zip(whole, short, strict=True):
    torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)
print("the same result")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize(("megabytes", "enough"), [(80, True), (4, False)])
def test_with_little_memory_the_result_is_the_same_or_the_error_says_what_to_do(megabytes, enough):
    """A real limit on the process's memory, and PyTorch's own allocator."""
    command = [sys.executable, "-c", LIMITED, str(megabytes)]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back to the system
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if enough:
        assert done.returncode == 0, done.stderr
        assert "the same result" in done.stdout
        assert done.stderr.count("RuntimeWarning: otr: memory is short on cpu") == 1
    else:
        assert done.returncode == 1, done.stderr
        assert "can't allocate memory" in done.stderr
        assert "otr: out of memory in the loss" in done.stderr


def test_the_message_of_this_pytorch_is_recognised():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory_plan._is_out_of_memory(raised.value)


def test_other_errors_are_raised_at_once(monkeypatch):
    def broken(self, *shape, **options):
        raise RuntimeError("another error")

    monkeypatch.setattr(torch.Tensor, "new_empty", broken)
    with pytest.raises(RuntimeError, match="another error"):
        memory_plan.buffer(torch.zeros(1), 8, 50, torch.float32, 0)
