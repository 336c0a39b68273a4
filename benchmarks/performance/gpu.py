"""Time and peak memory of the loss on a GPU, for every contender in one run, and the bandwidth of the loss kernel.

bfloat16, forward and backward. The contenders take turns, round after round; times are medians, from events on the
device. Before every step the memory from which gradients will be allocated is filled with NaN; after the step the
gradients must be finite. An output that a kernel leaves unwritten is noticed that way.
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

CELLS = [  # (size, share of positions that are trained)
    (Size(8192, 4096, 151936), 1.0),
    (Size(16384, 2048, 248320), 1.0),
    (Size(4096, 4096, 32000), 1.0),
    (Size(32768, 2048, 128256), 1.0),
    (Size(8192, 4096, 151936), 0.25),
]
SMALL = [(Size(64, 32, 1000), 1.0), (Size(64, 32, 1000), 0.25)]
SAMPLED_LIGERS_CHUNKS = "ours: sampled, Liger's chunks"
WARM_UP = 2  # rounds of the loss kernel that are not counted
KERNELS = {
    "sampled": OTRConfig(),
    "exact": OTRConfig(estimator="exact"),
    "dft": OTRConfig(objective="dft"),
    "sft": OTRConfig(objective="sft"),
}


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=7, help="counted runs of each contender (default 7)")
    parser.add_argument(
        "--small",
        action="store_true",
        help="tiny sizes, on a CPU if there is no GPU, only to check that the benchmark runs",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu", help="result file, without its suffix")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    device = device_for("gpu", args.small)
    results = provenance.collect(("torch", "triton", "liger-kernel", "cut-cross-entropy", "trl"))
    results |= {"gpu": gpu_name(device), "rounds": args.rounds, "cells": [], "loss kernel": []}
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
                | {"contenders": time_and_memory(case, contenders(size, device), args.rounds)}
            )
            del case
            progress.advance(bar)
    for size, _ in SMALL[:1] if args.small else CELLS[:4]:
        results["loss kernel"].append(kernel_bandwidth(size, device, args.rounds))
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))
    print(f"written to {args.out}.json and .md")


def device_for(command: str, small: bool) -> str:
    """Returns "cuda", or "cpu" where there is no GPU and only a check is wanted."""
    if torch.cuda.is_available():
        return "cuda"
    if not small:
        raise SystemExit(
            f"benchmarks {command}: PyTorch finds no GPU. --small checks on a CPU that the benchmark runs."
        )
    return "cpu"


def gpu_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "No GPU: a check on a CPU that the benchmark runs"


def contenders(size: Size, device: str) -> dict[str, Contender]:
    """Returns the contenders on this device, and ours with Liger's chunk size, to compare memory at equal chunks."""
    # Liger's own rule for the number of rows of a chunk.
    chunk = 2 ** math.ceil(math.log2(math.ceil(size.n / math.ceil(size.v / size.d))))
    return available(device) | {SAMPLED_LIGERS_CHUNKS: ours(OTRConfig(chunk_tokens=chunk))}


def time_and_memory(case: Case, contenders: dict[str, Contender], rounds: int) -> dict[str, Any]:
    """Returns for each contender its median seconds, ratio to the bare GEMMs and peak MB, or why it failed."""
    figures: dict[str, Any] = {}
    for name, contender in contenders.items():  # Also compiles the kernels and warms up.
        try:
            figures[name] = {"megabytes": peak(case, contender)}
        except torch.OutOfMemoryError:
            figures[name] = {"failed": "out of memory"}
        except Exception as error:  # Another library may fail on this GPU in any way.
            figures[name] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
        case.clear_gradients()
    seconds: dict[str, list[float]] = {name: [] for name in contenders if "failed" not in figures[name]}
    for _ in range(rounds):
        for name, times in seconds.items():
            case.clear_gradients()
            fill_free_memory_with_nan(case)
            times.append(timed(case.hidden.device.type, contenders[name], case))
            gradients = [leaf.grad for leaf in (case.hidden, case.weight) if leaf.requires_grad]
            if any(gradient is None or not gradient.isfinite().all() for gradient in gradients):
                raise SystemExit(f"benchmarks gpu: {name} computed gradients that are not finite")
    for name, times in seconds.items():
        figures[name] |= {"seconds": statistics.median(times), "ratio": timing.median_ratio(times, seconds[FLOOR])}
    return figures


def fill_free_memory_with_nan(case: Case) -> None:
    """Makes the next allocations of these sizes start as NaN: the allocator reuses the memory that is freed here."""
    for tensor in (case.hidden, case.weight):
        torch.empty_like(tensor).fill_(math.nan)


def timed(device: str, step: Callable[..., Any], *args: Any) -> float:
    """Returns the seconds that one call of `step` takes on the device."""
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
    """Returns the peak MB above what the inputs take, of the second step: the first may compile and tune kernels."""
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


def kernel_bandwidth(size: Size, device: str, rounds: int) -> dict[str, Any]:
    """Returns GB/s of the loss kernel on one chunk, and of a copy: bytes that must be read and written, per second."""
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
    for turn in range(WARM_UP + rounds):
        for name, step in steps.items():
            logits.copy_(fresh)
            time_of_step = timed(device, step)
            if turn >= WARM_UP:
                seconds[name].append(time_of_step)
    rates = {name: moved / statistics.median(times) / 1e9 for name, times in seconds.items()}
    return {"rows": count, "v": size.v, "gigabytes a second": rates}


def one_chunk(
    logits: torch.Tensor, labels: torch.Tensor, stats: torch.Tensor, config: OTRConfig, v: int
) -> Callable[[], None]:
    """Returns a function that runs the loss kernel on the chunk."""
    compute_chunk = choose_kernel(config.kernel, logits.device, logits.dtype)
    uniforms = torch.rand(len(labels), config.samples, device=logits.device) if config.draws else None
    options: dict[str, Any] = {"vocabulary": v, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    return lambda: compute_chunk(logits, labels, uniforms, stats, config, **options)


def render(results: dict[str, Any]) -> str:
    """Returns the Markdown page of the results."""
    method = (
        f"bfloat16, forward and backward; medians of {results['rounds']} rounds in which the contenders take turns. "
        "Ratios are to the bare GEMMs of the same round: two GEMMs with a frozen head, three with a trainable one. "
        "Memory is the peak above what the inputs take."
    )
    lines = ["# The loss on a GPU", "", f"{results['gpu']}. {provenance.describe(results)}", "", method]
    for trainable in (False, True):
        cells = [cell for cell in results["cells"] if cell["trainable"] == trainable]
        lines += ["", f"## {'Trainable' if trainable else 'Frozen'} head", "", *grid(cells, cell_text)]
        lines += [against_liger(cells)]
    lines += [
        "",
        "## The loss kernel alone",
        "",
        "It must read a chunk of logits once and write its gradient once.",
        "",
    ]
    lines += ["| rows, V | copy | " + " | ".join(KERNELS) + " |", "|---|---:|" + "---:|" * len(KERNELS)]
    for chunk in results["loss kernel"]:
        rates = chunk["gigabytes a second"]
        shares = [f"{rates[name]:,.1f} GB/s ({rates[name] / rates['copy']:.0%})" for name in KERNELS]
        lines.append(f"| {chunk['rows']}, {chunk['v']} | {rates['copy']:,.1f} GB/s | " + " | ".join(shares) + " |")
    return "\n".join(lines) + "\n"


def cell_text(figures: dict[str, Any]) -> str:
    if "failed" in figures:
        return str(figures["failed"])
    return f"{figures['ratio']:.2f} × ({1000 * figures['seconds']:.1f} ms), {figures['megabytes']:,.0f} MB"


def against_liger(cells: list[dict[str, Any]]) -> str:
    """Returns the table's row with our time as a multiple of Liger's."""
    ratios = []
    for cell in cells:
        pair = [cell["contenders"].get(name, {}).get("seconds") for name in (SAMPLED, LIGER)]
        ratios.append("not measured" if None in pair else f"{pair[0] / pair[1]:.2f} ×")
    return "| *ours: sampled, as a multiple of Liger's* | " + " | ".join(ratios) + " |"
