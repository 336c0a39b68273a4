"""Two ranks of transformers' tensor parallelism have the loss, gradients, draws and metrics of one process."""

import os
import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from otr_plugin import OTRConfig, attach
from tests.model.families import batch, tiny

RANKS = 2
MODELS = ("llama", "llama, tied", "gemma2, softcap")
TOKENS = 98  # transformers 5.16 divides only a vocabulary that the number of ranks divides
CONFIGS = {
    "sampled": {"samples": 64},
    "sampled, top_p": {"samples": 64, "top_p": 0.9, "nll_weight": 0.2},
    "exact": {"estimator": "exact", "baseline": "mean"},
    "dft": {"objective": "dft"},
}


def inputs():
    return batch(rows=4, seed=3)


def train(model, settings):
    """The losses, gradients and metrics of two micro-batches, and the NLL in evaluation."""
    handle = attach(model, OTRConfig(**settings), seed=3)
    handle.start_step(5)
    losses = []
    for _ in range(2):
        loss = model.train()(**inputs()).loss
        loss.backward()
        losses.append(loss.item())
    whole = {
        name: p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad for name, p in model.named_parameters()
    }
    with torch.no_grad():
        losses.append(model.eval()(**inputs()).loss.item())
    result = losses, whole, handle.take_metrics(), handle.describe()
    model.zero_grad()
    handle.detach()
    return result


def work(rank, folder):
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    # transformers reads the ranks from the variables that torchrun sets.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    results = {}
    for name in MODELS:
        split = DistributedConfig(tp_size=RANKS)
        model = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", distributed_config=split, dtype=torch.float32)
        assert model.get_output_embeddings().weight.to_local().shape[0] < model.config.vocab_size
        for settings in CONFIGS:
            results[name, settings] = train(model, CONFIGS[settings])
    torch.save(results, f"{folder}/out-{rank}")
    dist.barrier()
    os._exit(0)  # skips gloo's teardown, where a rank was seen to die by a signal


def run(function, folder, ranks):
    """What each rank has left in the folder."""
    for name in MODELS:
        tiny(name, vocab_size=TOKENS).save_pretrained(folder / name)
    processes = mp.spawn(function, (str(folder),), nprocs=ranks, join=False)
    deadline = time.monotonic() + 900  # against a hang; loaded machines are slow
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, "a rank hangs"
    finally:
        for process in processes.processes:
            process.kill()
    return [torch.load(folder / f"out-{rank}", weights_only=False) for rank in range(ranks)]


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory):
    return run(work, tmp_path_factory.mktemp("ranks"), RANKS)


@pytest.mark.parametrize("settings", CONFIGS)
@pytest.mark.parametrize("name", MODELS)
def test_ranks_that_divide_the_vocabulary_train_as_one_process(of_ranks, name, settings):
    want_losses, want, want_metrics, _ = train(tiny(name, vocab_size=TOKENS), CONFIGS[settings])
    for results in of_ranks:
        losses, gradients, metrics, line = results[name, settings]
        assert "(tensor parallelism: 2 ranks)" in line
        assert losses == pytest.approx(want_losses, rel=1e-6)
        assert metrics == pytest.approx(want_metrics, rel=1e-5, abs=1e-7)
        for parameter, gradient in gradients.items():
            error = (gradient - want[parameter]).abs().max() / want[parameter].abs().max()
            assert error < 1e-5, parameter


def half(rank):
    return {name: value[2 * rank : 2 * rank + 2] for name, value in inputs().items()}


def items():
    return (inputs()["labels"][:, 1:] != -100).sum()


def work_with_fsdp(rank, folder):
    """Two groups of tensor parallelism, with half of the batch each; FSDP2 shards the slices over the groups."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from transformers import AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(2 * RANKS))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2 * RANKS)
    mesh = init_device_mesh("cpu", (2, RANKS), mesh_dim_names=("dp", "tp"))
    results = {}
    for reshard in (True, False):
        model = AutoModelForCausalLM.from_pretrained(
            f"{folder}/llama",
            distributed_config=DistributedConfig(tp_plan="auto"),
            device_mesh=mesh["tp"],
            dtype=torch.float32,
        )
        for module in (*model.model.layers, model):
            fully_shard(module, mesh=mesh["dp"], reshard_after_forward=reshard)
        handle = attach(model, OTRConfig(samples=64), seed=3)
        output = model.train()(**half(rank // RANKS), num_items_in_batch=items())
        (output.loss * 2).backward()  # FSDP averages the gradients of the two groups
        results[reshard] = {name: p.grad.full_tensor() for name, p in model.named_parameters()}
        results[reshard]["metrics"] = handle.take_metrics()
        handle.detach()
    torch.save(results, f"{folder}/out-{rank}")
    dist.barrier()
    os._exit(0)


def test_with_fsdp_around_it(tmp_path):
    """With reshard_after_forward False, all parameters are gathered when the head is called."""
    model = tiny("llama", vocab_size=TOKENS)
    handle = attach(model, OTRConfig(samples=64), seed=3)
    for group in range(2):
        handle.start_step(0)
        handle.rank = RANKS * group  # the first rank of the group, by which its draws are keyed
        model(**half(group), num_items_in_batch=items()).loss.backward()
    want = handle.take_metrics()
    for results in run(work_with_fsdp, tmp_path, 2 * RANKS):
        for gradients in results.values():
            assert gradients.pop("metrics") == pytest.approx(want, rel=1e-5, abs=1e-7)
            for name, parameter in model.named_parameters():
                error = (gradients[name] - parameter.grad).abs().max() / parameter.grad.abs().max()
                assert error < 1e-5, name
