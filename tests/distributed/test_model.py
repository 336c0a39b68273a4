"""Two ranks with half the batch each have the gradients and the logged averages of one process with all of it."""

import os
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from otr_plugin import OTRConfig, attach
from tests.model.comparison import assert_same_gradients, loss_and_gradients
from tests.model.families import batch, tiny

CONFIG = OTRConfig(estimator="exact")
RANKS = 2


def halves(inputs, rank):
    return {name: value[rank::RANKS] for name, value in inputs.items()}


def inputs():
    return batch(rows=4, seed=3)


def items():
    return (inputs()["labels"][:, 1:] != -100).sum()


def work(rank, store, name, kind, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    train(rank, name, kind, out)
    dist.barrier()
    os._exit(0)  # skips gloo's teardown, where a rank was seen to die by a signal


def train(rank, name, kind, out):
    model = tiny(name)
    handle = attach(model, CONFIG)
    handle.rank = rank
    wrapped = DistributedDataParallel(model) if kind == "ddp" else shard(model)
    output = wrapped(**halves(inputs(), rank), num_items_in_batch=items())
    (output.loss * RANKS).backward()  # DDP and FSDP average gradients over ranks, and hosts scale the loss accordingly
    gradients = {}
    for parameter_name, parameter in model.named_parameters():
        gradient = parameter.grad
        gradients[parameter_name] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    metrics = handle.take_metrics()
    draws = [torch.zeros(5, CONFIG.samples) for _ in range(RANKS)]
    dist.all_gather(draws, torch.rand(5, handle.config.samples, generator=handle.generator(torch.device("cpu"))))
    assert not torch.equal(*draws), "ranks draw alike"
    if rank == 0:
        torch.save((gradients, metrics), out)


def shard(model):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
@pytest.mark.parametrize("name", ["llama", "llama, tied"])
def test_two_ranks_equal_one_process(name, kind, tmp_path):
    ranks = mp.spawn(work, (str(tmp_path / "store"), name, kind, str(tmp_path / "out")), nprocs=RANKS, join=False)
    deadline = time.monotonic() + 900  # against a hang; loaded machines are slow
    try:
        while not ranks.join(timeout=1):
            assert time.monotonic() < deadline, "a rank hangs"
    finally:
        for process in ranks.processes:
            process.kill()
    gradients, metrics = torch.load(tmp_path / "out", weights_only=False)
    model = tiny(name)
    handle = attach(model, CONFIG)
    _, want = loss_and_gradients(model, **inputs())
    assert_same_gradients(gradients, want)
    assert metrics == pytest.approx(handle.take_metrics(), rel=1e-5)
