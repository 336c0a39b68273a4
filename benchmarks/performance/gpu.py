"""The loss on a GPU: every contender's time and peak memory in one run, and what the rows kernel moves.

bfloat16, forward and backward. Contenders take turns, round after round; times are medians of events on the device.
Before every step the memory that gradients will get is filled with NaN, and after it they have to be finite.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import provenance
from benchmarks.paths import RESULTS
from benchmarks.performance import timing
from benchmarks.performance.contenders import FLOOR, LIGER, SAMPLED, Case, Contender, Size, available, ours
from benchmarks.performance.loss import grid
from otr_plugin import OTRConfig
from otr_plugin.loss.dispatch import choose_kernel
from otr_plugin.loss.memory_plan import CHUNK_BYTES_GPU
from otr_plugin.loss.torch_kernel import padded
from otr_plugin.metrics import ROW_METRICS

CELLS = [  # size, and the share of positions that is trained
    (Size(8192, 4096, 151936), 1.0),
    (Size(16384, 2048, 248320), 1.0),
    (Size(4096, 4096, 32000), 1.0),
    (Size(32768, 2048, 128256), 1.0),
    (Size(8192, 4096, 151936), 0.25),
]
SMALL = [(Size(64, 32, 1000), 1.0), (Size(64, 32, 1000), 0.25)]
AT_LIGERS = "ours: sampled, Liger's chunks"
KERNELS = {
    "sampled": OTRConfig(),
    "exact": OTRConfig(estimator="exact"),
    "dft": OTRConfig(objective="dft"),
    "sft": OTRConfig(objective="sft"),
}


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each contender (default 7)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on a CPU if need be: does everything run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.small:
        raise SystemExit("benchmarks gpu: PyTorch sees no GPU here. --small runs it on a CPU, to see that it does.")
    results = provenance.collect(("torch", "triton", "liger-kernel", "cut-cross-entropy", "trl"))
    results |= {"gpu": gpu_name(device), "rounds": args.rounds, "cells": [], "rows kernel": []}
    cells = [
        (size, share, trainable) for size, share in (SMALL if args.small else CELLS) for trainable in (False, True)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=len(cells))
        for size, share, trainable in cells:
            progress.update(bar, description=f"{tuple(size)}, {'trainable' if trainable else 'frozen'}")
            case = Case.make(size, trainable, device=device, dtype=torch.bfloat16, trained=share)
            results["cells"].append(
                {"n": size.n, "d": size.d, "v": size.v, "trained": share, "trainable": trainable}
                | {"contenders": measured(case, contenders(size, device), args.rounds)}
            )
            del case
            progress.advance(bar)
    for size, _ in SMALL[:1] if args.small else CELLS[:4]:
        results["rows kernel"].append(traffic(size, device, args.rounds))
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))
    print(f"kept in {args.out}.json and .md")


def gpu_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "none: run on a CPU, to see that it runs"


def contenders(size: Size, device: str) -> dict[str, Contender]:
    # Liger's own rule for its chunks, so that memory can be compared at the same.
    chunk = 2 ** math.ceil(math.log2(math.ceil(size.n / math.ceil(size.v / size.d))))
    return available(device) | {AT_LIGERS: ours(OTRConfig(chunk_tokens=chunk))}


def measured(case: Case, some: dict[str, Contender], rounds: int) -> dict[str, Any]:
    """What each contender took, or why it took nothing."""
    figures: dict[str, Any] = {}
    for name, contender in some.items():  # compiles, warms up, and shows the memory
        try:
            figures[name] = {"megabytes": peak(case, contender)}
        except torch.OutOfMemoryError:
            figures[name] = {"failed": "out of memory"}
        except Exception as error:  # of another library, on this GPU
            figures[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
        case.clear_gradients()
    seconds: dict[str, list[float]] = {name: [] for name in some if "failed" not in figures[name]}
    for _ in range(rounds):
        for name, taken in seconds.items():
            case.clear_gradients()
            poison(case)
            taken.append(timed(case.hidden.device.type, some[name], case))
            gradients = [leaf.grad for leaf in (case.hidden, case.weight) if leaf.requires_grad]
            if any(gradient is None or not gradient.isfinite().all() for gradient in gradients):
                raise SystemExit(f"benchmarks gpu: {name} left gradients that are not finite")
    for name, taken in seconds.items():
        figures[name] |= {"seconds": statistics.median(taken), "ratio": timing.median_ratio(taken, seconds[FLOOR])}
    return figures


def poison(case: Case) -> None:
    """What is allocated next finds NaN, so that an output that nobody writes is noticed."""
    for tensor in (case.hidden, case.weight):
        torch.empty_like(tensor).fill_(math.nan)


def timed(device: str, step: Callable[..., Any], *args: Any) -> float:
    if device == "cpu":
        start = time.perf_counter()
        step(*args)
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    step(*args)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def peak(case: Case, contender: Contender) -> float:
    """MB beyond what the inputs take. The second step's: the first may compile and try things."""
    if case.hidden.device.type == "cpu":
        contender(case)
        return 0.0
    contender(case)
    case.clear_gradients()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    contender(case)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def traffic(size: Size, device: str, rounds: int) -> dict[str, Any]:
    """The rows kernel alone on one chunk: bytes that it has to read and write a second, against a copy's."""
    count = max(1, min(size.n, CHUNK_BYTES_GPU // (2 * size.v)))
    g = torch.Generator(device).manual_seed(0)
    fresh = torch.randn(count, padded(size.v), generator=g, device=device, dtype=torch.bfloat16) * 2
    labels = torch.randint(0, size.v, (count,), generator=g, device=device)
    logits, stats = torch.empty_like(fresh), torch.empty(count, len(ROW_METRICS), device=device)
    moved = 2 * fresh.numel() * fresh.element_size()
    steps: dict[str, Callable[[], Any]] = {"copy": lambda: logits.copy_(fresh)}
    for name, config in KERNELS.items():
        steps[name] = one_chunk(logits, labels, stats, config, size.v)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            logits.copy_(fresh)
            taken = timed(device, step)
            if turn >= 2:
                seconds[name].append(taken)
    rates = {name: moved / statistics.median(taken) / 1e9 for name, taken in seconds.items()}
    return {"rows": count, "v": size.v, "gigabytes a second": rates}


def one_chunk(
    logits: torch.Tensor, labels: torch.Tensor, stats: torch.Tensor, config: OTRConfig, v: int
) -> Callable[[], None]:
    rows = choose_kernel(config.kernel, logits.device, logits.dtype)
    uniforms = torch.rand(len(labels), config.samples, device=logits.device) if config.draws else None
    options: dict[str, Any] = {"vocabulary": v, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    return lambda: rows(logits, labels, uniforms, stats, config, **options)


def render(results: dict[str, Any]) -> str:
    """The page that a person reads, from the results alone."""
    how = (
        f"bfloat16, forward and backward, medians of {results['rounds']} interleaved rounds. Ratios are to the bare "
        "GEMMs of the same round: two with a frozen head, three with a trainable one. Memory is the peak beyond the "
        "inputs."
    )
    lines = ["# The loss on a GPU", "", f"{results['gpu']}. {provenance.describe(results)}", "", how]
    for trainable in (False, True):
        cells = [cell for cell in results["cells"] if cell["trainable"] == trainable]
        lines += ["", f"## {'Trainable' if trainable else 'Frozen'} head", "", *grid(cells, show)]
        lines += [against_liger(cells)]
    lines += [
        "",
        "## The rows kernel alone",
        "",
        "It has to read a chunk of logits and to write its gradient once.",
        "",
    ]
    lines += ["| rows, V | copy | " + " | ".join(KERNELS) + " |", "|---|---:|" + "---:|" * len(KERNELS)]
    for one in results["rows kernel"]:
        rates = one["gigabytes a second"]
        shares = [f"{rates[name]:,.1f} GB/s ({rates[name] / rates['copy']:.0%})" for name in KERNELS]
        lines.append(f"| {one['rows']}, {one['v']} | {rates['copy']:,.1f} GB/s | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def show(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return str(figures["failed"])
    return f"{figures['ratio']:.2f} × ({1000 * figures['seconds']:.1f} ms), {figures['megabytes']:,.0f} MB"


def against_liger(cells: list[dict[str, Any]]) -> str:
    shares = []
    for cell in cells:
        pair = [cell["contenders"].get(name, {}).get("seconds") for name in (SAMPLED, LIGER)]
        shares.append("not measured" if None in pair else f"{pair[0] / pair[1]:.2f} ×")
    return "| *ours: sampled, as a multiple of Liger's* | " + " | ".join(shares) + " |"
