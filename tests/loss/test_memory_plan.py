"""How much memory a chunk takes, and what happens if less is free."""

import types

import pytest
import torch

from otr_plugin import OTRConfig
from otr_plugin.loss import memory_plan

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
        ({"free": 20 << 30}, memory_plan.CHUNK_BYTES_GPU),
        ({"free": 1 << 30}, 1 << 28),
        ({"free": 1 << 30, "reserved": 3 << 30, "allocated": 2 << 30}, 1 << 29),  # PyTorch can reuse reserved memory
        ({"free": 20 << 30, "fraction": 0.5, "reserved": 11 << 30, "allocated": 11 << 30}, 1 << 28),
        ({"free": 20 << 30, "fraction": 0.5, "reserved": 13 << 30, "allocated": 13 << 30}, 0),
    ],
    ids=str,
)
def test_the_budget_of_a_gpu_is_a_share_of_its_free_memory(memory, want, monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: device_with(**memory))
    assert memory_plan.budget(torch.device("cuda")) == want


def test_the_budget_of_a_cpu_is_fixed():
    assert memory_plan.budget(torch.device("cpu")) == memory_plan.CHUNK_BYTES


@pytest.mark.parametrize("chunk", ["auto", 40, 13])
def test_short_memory_makes_chunks_smaller_and_keeps_the_result(chunk, monkeypatch):
    """Simulates a device where at most 5 rows of logits and their temporaries fit."""
    p = problem(40, 8, 500, bias=True, masked=0.2, seed=5)
    config = OTRConfig(samples=32, chunk_tokens=chunk)
    whole = actual(p, config, torch.float32)
    original, sizes = torch.Tensor.new_empty, []

    def short_of_memory(self, *shape, **options):
        if len(shape) == 2 and shape[1] == 512 and shape[0] > 5:
            raise torch.OutOfMemoryError("simulated")
        if options.get("dtype") == torch.uint8:
            sizes.append(shape)
        return original(self, *shape, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", short_of_memory)
    parts = actual(p, config, torch.float32)
    assert len(sizes) == 1
    torch.testing.assert_close(parts.loss, whole.loss, rtol=2e-6, atol=1e-7)
    for name, gradient in parts.gradients.items():
        assert error(gradient, whole.gradients[name]) < 2e-6


def test_no_memory_for_one_row_raises(monkeypatch):
    def no_memory(self, *shape, **options):
        raise torch.OutOfMemoryError("simulated")

    p = problem(4, 8, 50)
    monkeypatch.setattr(torch.Tensor, "new_empty", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        memory_plan.buffer(p.hidden, 8, 50, torch.float32, 0)
