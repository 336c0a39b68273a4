"""What two ranks do when one of them goes wrong: python -m tests.distributed.faults prints it as JSON.

Each scenario is a function of the rank. It runs in two forked processes, which end by its exception or by its return.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from otr_plugin import OTRConfig, attach
from otr_plugin.model.attach import attached_handle
from tests.model.families import batch, tiny

RANKS = 2
SECONDS = 5  # the timeout of the process group
LIMIT = 120  # after which a rank hangs


def wrapped(rank):
    torch.manual_seed(0)
    model = tiny("llama")
    return attach(model, OTRConfig(samples=16)), DistributedDataParallel(model)


def step(handle, model, number=0):
    handle.start_step(number)
    model(**batch(seed=number)).loss.backward()


def metrics_on_one_rank(rank):
    handle, model = wrapped(rank)
    step(handle, model)
    if rank == 0:
        handle.take_metrics()
    else:
        time.sleep(3 * SECONDS)  # no end of the process that the other rank could notice


def metrics_at_different_steps(rank):
    handle, model = wrapped(rank)
    step(handle, model)
    handle.start_step(rank)
    handle.take_metrics()


def metrics_between_collectives(rank):
    """Twice, with a collective of the host's own between them; the second rank has not trained."""
    handle = attach(tiny("llama"), OTRConfig(samples=16))
    for number in range(2):
        handle.start_step(number)
        if rank == 0:
            handle.model(**batch(seed=number))
        taken = handle.take_metrics()
        total = torch.ones(())
        dist.all_reduce(total)
        assert total == RANKS
        assert taken["otr/nll"] > 0
    assert handle.take_metrics() == {}


def ranks_draw_differently(rank):
    handle = attach(tiny("llama"), OTRConfig(samples=16))
    draws = [torch.zeros(5) for _ in range(RANKS)]
    dist.all_gather(draws, torch.rand(5, generator=handle.generator(torch.device("cpu"))))
    assert not torch.equal(*draws)


def a_rank_dies(rank):
    handle, model = wrapped(rank)
    step(handle, model)
    if rank == 1:
        os._exit(9)
    step(handle, model, 1)


def a_rank_dies_before_the_metrics(rank):
    handle, model = wrapped(rank)
    step(handle, model)
    if rank == 1:
        os._exit(9)
    handle.take_metrics()


def first_step_check_fails_on_one_rank(rank):
    handle, model = wrapped(rank)
    if rank == 1:
        handle.logit_transform = handle.logit_transform._replace(logit_scale=2.0)
    step(handle, model)


def nan_on_one_rank(rank):
    handle, model = wrapped(rank)
    if rank == 1:
        with torch.no_grad():
            model.module.model.norm.weight.fill_(torch.nan)
    step(handle, model)


MLP = "model.layers.0.mlp"


LAYER = {f"{MLP}.gate_proj": 0, f"{MLP}.up_proj": 0, f"{MLP}.down_proj": 1}


def tensor_parallel_layer(rank):
    """The ranks share the positions of the batch, so they draw the same tokens, also if the head is not split."""
    for attach_first in (False, True):
        model = tiny("llama")
        if attach_first:
            attach(model, OTRConfig(samples=16))
        parallelize(model, LAYER)
        handle = attached_handle(model) or attach(model, OTRConfig(samples=16))
        step(handle, model)
        gradients = [torch.zeros_like(model.lm_head.weight) for _ in range(RANKS)]
        dist.all_gather(gradients, model.lm_head.weight.grad)
        assert torch.equal(*gradients)
        model.zero_grad()


def tensor_parallel_head(rank):
    """PyTorch's own ColwiseParallel passes a DTensor to the head, and leaves the logits in slices."""
    model = tiny("llama")
    parallelize(model, {"lm_head": 0})
    step(attach(model, OTRConfig(samples=16)), model)


def tensor_parallel_by_deepspeed(rank):
    """DeepSpeed and Megatron mark the parameters that they split."""
    model = tiny("llama")
    model.model.layers[0].mlp.gate_proj.weight.tensor_model_parallel = True
    attach(model, OTRConfig(samples=16))


def parallelize(model, dimensions):
    """Split the weights with these names along one of their dimensions."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {name: RowwiseParallel() if dimension else ColwiseParallel() for name, dimension in dimensions.items()}
    parallelize_module(model, init_device_mesh("cpu", (RANKS,)), plan)


SCENARIOS = (
    metrics_on_one_rank,
    metrics_at_different_steps,
    metrics_between_collectives,
    ranks_draw_differently,
    a_rank_dies,
    a_rank_dies_before_the_metrics,
    first_step_check_fails_on_one_rank,
    nan_on_one_rank,
    tensor_parallel_layer,
    tensor_parallel_head,
    tensor_parallel_by_deepspeed,
)


def work(rank, store, scenario, pipe):
    timeout = timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=timeout)
    try:
        scenario(rank)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        traceback.print_exc()
    else:
        pipe.send(None)
    os._exit(0)  # past gloo's teardown, where a rank was seen to die by a signal


def run(scenario):
    """For each rank: how it ended, and after how many seconds."""
    context = multiprocessing.get_context("fork")
    store, started = tempfile.mktemp(), time.monotonic()
    pairs = []
    for rank in range(RANKS):
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(rank, store, scenario, theirs))
        process.start()
        theirs.close()
        pairs.append((process, ours))
    ends = []
    for process, pipe in pairs:
        try:
            end = pipe.recv() if pipe.poll(max(0, started + LIMIT - time.monotonic())) else "hangs"
        except EOFError:
            process.join()
            end = f"exit status {process.exitcode}"
        ends.append(end)
    for process, _ in pairs:
        process.kill()
        process.join()
    return ends


if __name__ == "__main__":
    tiny("llama")  # imported before the processes are forked
    import torch.distributed.tensor.parallel

    chosen = [scenario for scenario in SCENARIOS if scenario.__name__ in sys.argv[1:] or len(sys.argv) == 1]
    print(json.dumps({scenario.__name__: run(scenario) for scenario in chosen}))
