"""Time and peak memory of the loss beside all others, in one run: bfloat16, forward and backward.

The contenders take turns, round after round. Before every step the memory from which gradients will be allocated is
filled with NaN, and after it the gradients must be finite: an output that a kernel leaves unwritten is noticed.
"""

from __future__ import annotations

import gc
import importlib.util
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.gpu import timed
from benchmarks.gpu.record import Context, Figures
from benchmarks.performance import contenders as all_contenders
from benchmarks.performance.contenders import BY_HAND, CUT, FLOOR, LIGER, PYTORCH, TRL, Case, Contender, Size, ours
from otr_plugin import OTRConfig
from otr_plugin.loss.memory_plan import chunk_size

TITLE = "The loss beside all others"
MINUTES = 8.0
INTERPRETED = True
SIZES = {
    "8192 × 151936 × 4096": Size(8192, 4096, 151936),
    "16384 × 248320 × 2048": Size(16384, 2048, 248320),
    "4096 × 128256 × 4096": Size(4096, 4096, 128256),
    "2048 × 262144 × 2560": Size(2048, 2560, 262144),
}
SMALL_SIZES = {"8 × 300 × 16": Size(8, 16, 300)}
HEADS = {"frozen": False, "trained": True}
ROUNDS, SMALL_ROUNDS = 7, 1
GIB = "ours: sampled, chunks of 1 GiB"
QUARTER = "ours: sampled, chunks of 256 MiB"
NOT_INSTALLED = "not installed"
METHOD = (
    "N × V × D and the head. Medians; times as a multiple of the bare GEMMs of the same round: two with a frozen head, "
    "three with a trained one. Memory is the peak above the inputs."
)


class Bar(NamedTuple):
    text: str
    figure: str  # seconds or megabytes
    ours: str
    other: str
    at_most: float


BARS = (
    Bar("time of the bare GEMMs, chunks of 1 GiB", "seconds", GIB, FLOOR, 1.15),
    Bar("time of the bare GEMMs, chunks of 256 MiB", "seconds", QUARTER, FLOOR, 1.3),
    Bar("time of Cut Cross Entropy", "seconds", GIB, CUT, 1.05),
    Bar("time of Liger's", "seconds", GIB, LIGER, 0.5),
    Bar("memory of OTR by hand", "megabytes", GIB, BY_HAND, 1 / 8),
)


def cells(small: bool) -> list[str]:
    return [f"{size}, {head}" for head in HEADS for size in (SMALL_SIZES if small else SIZES)]


def measure(cell: str, context: Context) -> Figures:
    name, head = cell.split(", ")
    size = (SIZES | SMALL_SIZES)[name]
    case = Case.make(size, HEADS[head], device=context.device, dtype=torch.bfloat16)
    found = time_and_memory(case, contenders(size), SMALL_ROUNDS if context.small else ROUNDS, context.deadline)
    del case
    gc.collect()
    return {"n": size.n, "v": size.v, "d": size.d, "head": head, "contenders": found}


def contenders(size: Size) -> dict[str, Contender | str]:
    """The contenders, or why one is not there."""

    def chunks(bytes_of_logits: int) -> OTRConfig:
        return OTRConfig(chunk_tokens=chunk_size(size.n, 2 * size.v, "auto", bytes_of_logits))

    def of(package: str, contender: Contender) -> Contender | str:
        return contender if importlib.util.find_spec(package) is not None else NOT_INSTALLED

    has_linear = hasattr(F, "linear_cross_entropy")
    return {
        FLOOR: all_contenders.bare_gemms,
        all_contenders.CROSS_ENTROPY: all_contenders.whole_cross_entropy,
        LIGER: of("liger_kernel", all_contenders.liger),
        CUT: of("cut_cross_entropy", all_contenders.cut_cross_entropy),
        TRL: of("trl", all_contenders.trl_fused_head),
        PYTORCH: all_contenders.pytorch_linear_cross_entropy_on_gpu if has_linear else "not in this PyTorch",
        BY_HAND: all_contenders.otr_by_hand,
        GIB: ours(chunks(2**30)),
        QUARTER: ours(chunks(2**28)),
        "ours: exact": ours(OTRConfig(estimator="exact")),
        "ours: sft": ours(OTRConfig(objective="sft")),
    }


def time_and_memory(case: Case, contenders: dict[str, Contender | str], rounds: int, deadline: float) -> Figures:
    """For each contender, the seconds of every round and the peak MB above the inputs; or why there are none."""
    device = case.hidden.device.type
    figures: Figures = {}
    for name, contender in contenders.items():
        figures[name] = {"failed": contender} if isinstance(contender, str) else _first_steps(device, contender, case)
        case.clear_gradients()
    running: dict[str, Callable[[Case], None]] = {
        name: one for name, one in contenders.items() if not isinstance(one, str) and "failed" not in figures[name]
    }
    for _ in range(rounds):
        for name, contender in running.items():
            if "failed" in figures[name]:
                continue
            case.clear_gradients()
            _fill_free_memory_with_nan(case)
            try:
                took = timed.seconds_of(device, lambda one=contender: one(case))  # type: ignore[misc]
            except torch.OutOfMemoryError:
                figures[name] = {"failed": "out of memory"}
                continue
            figures[name]["seconds"].append(took)
            gradients = [leaf.grad for leaf in (case.hidden, case.weight) if leaf.requires_grad]
            if any(gradient is None or not gradient.isfinite().all() for gradient in gradients):
                figures[name]["wrong"] = "gradients that are not finite"
        if time.monotonic() > deadline:  # a median of fewer rounds is still one
            break
    return figures


def _first_steps(device: str, contender: Contender, case: Case) -> Figures:
    """The peak of the second step: the first compiles and tunes kernels."""
    try:
        contender(case)
        case.clear_gradients()
        return {"megabytes": timed.peak_megabytes(device, lambda: contender(case)), "seconds": []}
    except torch.OutOfMemoryError:
        case.clear_gradients()
        gc.collect()
        if device != "cpu":
            torch.cuda.empty_cache()
        return {"failed": "out of memory"}
    except Exception as error:  # another library may fail on this card in any way
        return {"failed": f"{type(error).__name__}: {str(error)[:120]}"}


def _fill_free_memory_with_nan(case: Case) -> None:
    """Makes the next allocations of these sizes start as NaN: the allocator reuses the memory that is freed here."""
    for tensor in (case.hidden, case.weight):
        torch.empty_like(tensor).fill_(math.nan)


def ratio(found: Figures, bar: Bar) -> float | str:
    """Ours as a multiple of the other, or why there is none."""
    one, other = found.get(bar.ours, {}), found.get(bar.other, {})
    for name, each in ((bar.ours, one), (bar.other, other)):
        if why := each.get("failed") or ("" if each.get(bar.figure) else "not measured"):
            return f"{name}: {why}"
    if bar.figure == "seconds":  # within a round, so that a slow phase of the machine cancels
        return statistics.median([float(a / b) for a, b in zip(one["seconds"], other["seconds"], strict=True)])
    return float(one["megabytes"] / other["megabytes"])


def verdict(found: Figures, bar: Bar) -> str:
    value = ratio(found, bar)
    if isinstance(value, str):
        return value
    if value <= bar.at_most:
        return f"met: {value:.3g} ×"
    return f"**missed by {value / bar.at_most - 1:.0%}**: {value:.3g} ×"


def lines(cells: dict[str, Figures]) -> list[str]:
    names = [name for name in cells if "contenders" in cells[name]]
    if not names:
        return []
    table = ["| bar: at most | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for bar in BARS:
        texts = [verdict(cells[name]["contenders"], bar) for name in names]
        table.append(f"| {bar.at_most:g} × the {bar.text} | " + " | ".join(texts) + " |")
    table += ["", METHOD, ""]
    table += ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for contender in cells[names[0]]["contenders"]:
        texts = [_text(cells[name]["contenders"], contender) for name in names]
        table.append(f"| {contender} | " + " | ".join(texts) + " |")
    return table


def _text(found: Figures, name: str) -> str:
    one = found.get(name, {"failed": "not measured"})
    if "failed" in one or not one["seconds"]:
        return str(one.get("failed", "not measured"))
    times = ratio(found, Bar("", "seconds", name, FLOOR, 0))
    multiple = f"{times:.2f} × " if isinstance(times, float) else ""
    memory = "" if one["megabytes"] is None else f", {one['megabytes']:,.0f} MB"
    wrong = f", **{one['wrong']}**" if "wrong" in one else ""
    return f"{multiple}({1000 * statistics.median(one['seconds']):,.1f} ms){memory}{wrong}"


def plot(cells: dict[str, Figures], path: Path) -> bool:
    from matplotlib import pyplot

    shown = {name: one["contenders"] for name, one in cells.items() if "contenders" in one}
    if not shown:
        return False
    contenders = list(next(iter(shown.values())))[1:]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 1.2 + 0.42 * len(contenders)), sharey=True, layout="constrained")
    height = 0.8 / len(shown)
    for index, (cell, found) in enumerate(shown.items()):
        places = [row + (index + 0.5) * height - 0.4 for row in range(len(contenders))]
        times: list[Any] = [ratio(found, Bar("", "seconds", name, FLOOR, 0)) for name in contenders]
        memory = [(found[name].get("megabytes") or 0) / 1000 for name in contenders]
        axes[0].barh(places, [x if isinstance(x, float) else 0 for x in times], height, label=cell)
        axes[1].barh(places, memory, height)
    for row, name in enumerate(contenders):
        if reasons := {found[name]["failed"].partition(":")[0] for found in shown.values() if "failed" in found[name]}:
            axes[0].text(1.02, row, ", ".join(sorted(reasons)), va="center", fontsize=8, color="#666666")
    axes[0].axvline(1, color="#444444", linewidth=1)
    axes[0].set_yticks(range(len(contenders)), contenders)
    axes[0].invert_yaxis()
    axes[0].set_xlabel("time, as a multiple of the bare GEMMs")
    axes[1].set_xlabel("peak memory above the inputs, GB")
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
