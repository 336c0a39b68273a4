"""What two ranks do when one of them goes wrong: python -m tests.distributed.faults prints it as JSON.

Each scenario is a function of the rank, some of them with each engine. It runs in two forked processes, which end by
its exception or by its return.
"""

import functools
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

from benchmarks.engines.engines import KINDS
from benchmarks.hosts.engines_on_cpu import import_deepspeed
from otr_plugin import OTRConfig, attach
from otr_plugin.model.attach import attached_handle
from tests.model.families import batch, tiny

RANKS = 2
SECONDS = 5  # the timeout of the process group
LIMIT = 120  # after which a rank hangs


ENGINES = {"DDP": ("ddp", {}), "FSDP2": ("fsdp2", {}), "ZeRO-3": ("zero", {"stage": 3})}


def wrapped(engine="DDP"):
    """An attached model, and the engine that trains it."""
    handle = attach(tiny("llama"), OTRConfig(samples=16))
    kind, settings = ENGINES[engine]
    return handle, KINDS[kind](handle.model, settings, 1, 0.1)


def step(handle, engine, number=0):
    handle.start_step(number)
    engine.backward(engine.module(**batch(seed=number)).loss)
    engine.step()


def metrics_on_one_rank(rank):
    handle, engine = wrapped()
    step(handle, engine)
    if rank == 0:
        handle.take_metrics()
    else:
        time.sleep(3 * SECONDS)  # no end of the process that the other rank could notice


def metrics_at_different_steps(rank):
    handle, engine = wrapped()
    step(handle, engine)
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


def a_rank_dies(rank, engine):
    handle, trained = wrapped(engine)
    step(handle, trained)
    if rank == 1:
        os._exit(9)
    step(handle, trained, 1)


def a_rank_dies_before_the_metrics(rank):
    handle, engine = wrapped()
    step(handle, engine)
    if rank == 1:
        os._exit(9)
    handle.take_metrics()


def first_step_check_fails_on_one_rank(rank, engine):
    handle, trained = wrapped(engine)
    if rank == 1:
        handle.logit_transform = handle.logit_transform._replace(logit_scale=2.0)
    step(handle, trained)


def nan_on_one_rank(rank, engine):
    """In the hidden states, because the parameters of a sharded model are those of all ranks."""
    handle, trained = wrapped(engine)
    if rank == 1:
        handle.model.model.norm.register_forward_hook(lambda module, args, hidden: hidden * torch.nan)
    step(handle, trained)


WITH_EACH_ENGINE = (a_rank_dies, first_step_check_fails_on_one_rank, nan_on_one_rank)


MLP = "model.layers.0.mlp"


LAYER = {f"{MLP}.gate_proj": 0, f"{MLP}.up_proj": 0, f"{MLP}.down_proj": 1}


def tensor_parallel_layer(rank):
    """The ranks share the positions of the batch, so they draw the same tokens, also if the head is not split."""
    for attach_first in (False, True):
        model = tiny("llama")
        if attach_first:
            attach(model, OTRConfig(samples=16))
        parallelize(model, LAYER)
        attached_handle(model) or attach(model, OTRConfig(samples=16))
        model(**batch()).loss.backward()
        gradients = [torch.zeros_like(model.lm_head.weight) for _ in range(RANKS)]
        dist.all_gather(gradients, model.lm_head.weight.grad)
        assert torch.equal(*gradients)
        model.zero_grad()


def tensor_parallel_head(rank):
    """PyTorch's own ColwiseParallel passes a DTensor to the head, and leaves the logits in slices."""
    model = tiny("llama")
    parallelize(model, {"lm_head": 0})
    attach(model, OTRConfig(samples=16))
    model(**batch())


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


def token_weights_in_low_precision(rank):
    """FSDP2 converts the arguments of the model's call, unless its policy says otherwise."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh, inputs = init_device_mesh("cpu", (RANKS,)), batch()
    weights = torch.full(inputs["labels"].shape, 0.3)
    for converts, arrived in ((True, 0.30078125), (False, 0.3)):
        handle = attach(tiny("llama"), OTRConfig(objective="sft"))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, cast_forward_inputs=converts)
        fully_shard(handle.model, mesh=mesh, mp_policy=policy)
        handle.model(**inputs, token_weights=weights)
        weight = handle.take_metrics()["otr/weight"]
        assert abs(weight - arrived) < 1e-6, weight


WITHOUT_ENGINES = (
    metrics_on_one_rank,
    metrics_at_different_steps,
    metrics_between_collectives,
    ranks_draw_differently,
    a_rank_dies_before_the_metrics,
    token_weights_in_low_precision,
    tensor_parallel_layer,
    tensor_parallel_head,
    tensor_parallel_by_deepspeed,
)
SCENARIOS = {scenario.__name__: scenario for scenario in WITHOUT_ENGINES} | {
    f"{scenario.__name__}, {engine}": functools.partial(scenario, engine=engine)
    for scenario in WITH_EACH_ENGINE
    for engine in ENGINES
}


def work(rank, store, scenario, pipe):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))  # DeepSpeed reads them
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

    has_deepspeed = import_deepspeed()
    chosen = [name for name in sys.argv[1:] or SCENARIOS if has_deepspeed or "ZeRO" not in name]
    print(json.dumps({name: run(SCENARIOS[name]) for name in chosen}))
