"""What one rank of tensor parallelism needs: the peak memory of a step of the loss, and what the ranks exchange."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import provenance
from benchmarks.paths import RESULTS
from benchmarks.performance.memory import process_kilobytes, reset_peak
from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.vocabulary import VocabularySlice

RANKS = (1, 2, 4)
N, D, V = 1024, 512, 151936
CONFIGS: dict[str, dict[str, Any]] = {
    "otr": {},
    "otr, exact": {"estimator": "exact"},
    "otr, top_p": {"top_p": 0.9},
    "sft": {"objective": "sft"},
}


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--small", action="store_true", help="tiny sizes, only to check that the benchmark runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "slices-cpu", help="result file, without its suffix")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    size = (64, 32, 1000) if args.small else (N, D, V)
    results = provenance.collect(("torch",)) | {"threads": 1, "size": size, "cells": []}
    for name in list(CONFIGS)[:1] if args.small else CONFIGS:
        for ranks in RANKS[:2] if args.small else RANKS:
            cell = {"config": name, "ranks": ranks} | measure(ranks, size, name)
            results["cells"].append(cell)
            print(cell, flush=True)
    provenance.write_results(args.out, results, render(results))


def measure(ranks: int, size: tuple[int, int, int], name: str) -> dict[str, Any]:
    """The largest figure of all ranks, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        queue = context.Queue()
        arguments = [(rank, ranks, f"{folder}/store", size, name, queue) for rank in range(ranks)]
        processes = [context.Process(target=_work, args=one) for one in arguments]
        for process in processes:
            process.start()
        found = [queue.get(timeout=900) for _ in processes]
        for process in processes:
            process.join()
    return {key: max(one[key] for one in found) for key in found[0]}


def _work(rank: int, ranks: int, store: str, size: tuple[int, int, int], name: str, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    _step(rank, ranks, (64, 64, 1000), name)  # allocates what is needed once
    exchanged = _count_exchanges()
    queue.put({"megabytes": _step(rank, ranks, size, name)} | exchanged)
    queue.close()
    queue.join_thread()
    dist.barrier()
    os._exit(0)


def _step(rank: int, ranks: int, size: tuple[int, int, int], name: str) -> float:
    """The peak memory of a step of this rank, above what its inputs take."""
    n, d, v = size
    g = torch.Generator().manual_seed(0)
    rows = -(-v // ranks)
    start = min(rank * rows, v)
    hidden = torch.randn(n, d, generator=g).requires_grad_()
    labels = torch.randint(0, v, (n,), generator=g)
    weight = torch.randn(min(rows, v - start), d) / d**0.5
    place = VocabularySlice(start, v, dist.group.WORLD) if ranks > 1 else None
    before = process_kilobytes("VmRSS")
    reset_peak()
    config = OTRConfig(**CONFIGS[name], chunk_tokens=n)
    otr_loss(hidden, weight, labels, config, generator=g, vocabulary_slice=place).loss.backward()
    return (process_kilobytes("VmHWM") - before) / 1024


def _count_exchanges() -> dict[str, int]:
    """Counts, from now on, the collectives of this process and the bytes that it contributes to them."""
    counts = {"collectives": 0, "bytes": 0}
    module: Any = dist
    all_gather, all_reduce = module.all_gather, module.all_reduce

    def gather(into: list[Tensor], tensor: Tensor, **options: Any) -> Any:
        counts["collectives"] += 1
        counts["bytes"] += tensor.nbytes
        return all_gather(into, tensor, **options)

    def reduce(tensor: Tensor, **options: Any) -> Any:
        counts["collectives"] += 1
        counts["bytes"] += tensor.nbytes
        return all_reduce(tensor, **options)

    module.all_gather, module.all_reduce = gather, reduce
    return counts


def render(results: dict[str, Any]) -> str:
    return "\n".join(["# The loss of a divided vocabulary", "", *table(results)]) + "\n"


def table(results: dict[str, Any]) -> list[str]:
    n, d, v = results["size"]
    lines = [
        f"N={n}, D={d}, V={v}, float32, a frozen head, all positions in one chunk.",
        "",
        "| settings | ranks | peak memory of a rank | collectives | bytes that a rank contributes |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {cell['config']} | {cell['ranks']} | {cell['megabytes']:,.0f} MB | {cell['collectives']:,} | "
        f"{cell['bytes']:,} |"
        for cell in results["cells"]
    ]
    return [*lines, "", provenance.describe(results)]
