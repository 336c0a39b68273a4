"""A vocabulary that is divided over processes has the loss of one process, by the rule of test_parity.py."""

import functools
import itertools
import os
import time
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.vocabulary import VocabularySlice

from .problems import Result, config_of, problem
from .test_parity import CONFIGS, check

# How many tokens each rank has: uneven, one, none, and whole tiles.
DIVISIONS = [(1, 0), (1, 1), (5, 2), (64, 64), (63, 66), (700, 301), (2, 2, 1), (40, 0, 30), (128, 128, 1)]
DTYPES = (torch.float64, torch.float32, torch.bfloat16)
HEADS = ({}, {"softcap": 2.0}, {"logit_scale": -0.5, "num_items": 11})


assert_equal = functools.partial(torch.testing.assert_close, rtol=0, atol=0, equal_nan=True)


def divided(division, p, config, dtype):
    """What `actual` of problems.py returns, computed by one process for each slice of the vocabulary."""
    p = p.to(dtype)
    rank, start = dist.get_rank(), sum(division[: dist.get_rank()])
    rows = slice(start, start + division[rank])
    leaves = {"hidden": p.hidden}
    leaves |= {name: getattr(p, name)[rows].detach().requires_grad_() for name in ("weight", "bias")}
    place = VocabularySlice(start, sum(division), dist.group.WORLD)
    loss, metrics = otr_loss(
        labels=p.labels, config=config, uniforms=p.uniforms, vocabulary_slice=place, **leaves, **p.options
    )
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    ranks = [None] * len(division)
    dist.all_gather_object(ranks, (loss.detach(), metrics, gradients))
    for other_loss, other_metrics, other_gradients in ranks:  # or the ranks would drift apart
        assert_equal(other_loss, loss)
        assert_equal(other_metrics, metrics)
        assert_equal(other_gradients["hidden"], gradients["hidden"])
    for name in ("weight", "bias"):
        gradients[name] = torch.cat([gradients_of_rank[name] for *_, gradients_of_rank in ranks])
    return Result(loss.detach(), metrics, gradients)


def every_config_matches_the_specification(ranks):
    for division, (i, name) in itertools.product(DIVISIONS, enumerate(CONFIGS)):
        if len(division) == ranks:
            dtype, head = DTYPES[i % 3], HEADS[(i + sum(division)) % 3]
            config = config_of(CONFIGS[name], chunk_tokens=4)
            p = problem(9, 6, sum(division), samples=config.samples, bias=True, seed=1, dtype=dtype, **head)
            yield (
                f"{division}, {name}, {dtype}, {head}",
                functools.partial(check, p, config, dtype, functools.partial(divided, division)),
            )


def nan_and_inf_stay_in_their_rows(ranks):
    """A logit that is not finite, in one rank's slice and one row, makes that row NaN in every rank, and no other."""
    for name, second in {"inf": 0.0, "nan": -1e30}.items():
        p = problem(6, 4, 100, samples=8, bias=True, masked=0, seed=2)
        p.hidden[:, :2] = 0
        p.hidden[3, :2] = 1e30
        p.weight[:, :2] = 0
        p.weight[70, :2] = torch.tensor([1e30, second])

        def compute(p=p):
            got = divided((60, 40), p, OTRConfig(samples=8), torch.float32)
            assert got.loss.isnan()
            assert all(total.isnan() for name, total in got.metrics.items() if name != "tokens")
            assert got.gradients["hidden"].isnan().any(-1).tolist() == [row == 3 for row in range(6)]

        if ranks == 2:
            yield f"{name} in one slice", compute


def ranks_agree_on_the_chunks(ranks):
    """A rank with less memory than the others decides how many positions a chunk has, or they would wait for ever."""

    def compute():
        from otr_plugin.loss import memory_plan

        own_buffer = memory_plan.buffer
        if dist.get_rank() == 1:
            memory_plan.buffer = lambda like, rows, *more: own_buffer(like, min(rows, 2), *more)
        try:
            config = OTRConfig(samples=8)
            p = problem(9, 6, 100, samples=8, bias=True, seed=4, dtype=torch.float64)
            check(p, config, torch.float64, functools.partial(divided, (60, 40)))
        finally:
            memory_plan.buffer = own_buffer

    if ranks == 2:
        yield "memory is short on one rank", compute


CHECKS = (every_config_matches_the_specification, nan_and_inf_stay_in_their_rows, ranks_agree_on_the_chunks)


def work(rank, ranks, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    results = {}
    for name, compute in itertools.chain.from_iterable(cases(ranks) for cases in CHECKS):
        try:
            compute()
            results[name] = None
        except Exception:
            results[name] = traceback.format_exc()
    torch.save(results, f"{out}-{rank}")
    dist.barrier()
    os._exit(0)  # skips gloo's teardown, where a rank was seen to die by a signal


@pytest.mark.parametrize("ranks", [2, 3])
def test_slices_of_the_vocabulary_have_the_result_of_one_process(ranks, tmp_path):
    processes = mp.spawn(work, (ranks, str(tmp_path / "store"), str(tmp_path / "out")), nprocs=ranks, join=False)
    deadline = time.monotonic() + 600  # against a hang; loaded machines are slow
    try:
        while not processes.join(timeout=1):
            assert time.monotonic() < deadline, "a rank hangs"
    finally:
        for process in processes.processes:
            process.kill()
    for rank in range(ranks):
        results = torch.load(f"{tmp_path / 'out'}-{rank}", weights_only=False)
        assert len(results) >= 3 * len(CONFIGS)
        failed = {name: error for name, error in results.items() if error}
        assert not failed, "\n\n".join(f"rank {rank}, {name}:\n{error}" for name, error in failed.items())


def test_triton_is_refused_for_a_slice():
    p = problem(4, 3, 10)
    place = VocabularySlice(0, 20, None)
    with pytest.raises(ValueError, match="kernel: expected auto or torch, got triton, which computes no slice"):
        otr_loss(p.hidden, p.weight, p.labels, OTRConfig(kernel="triton"), vocabulary_slice=place)
