"""Where the time of a step goes: shares of kernels, bytes a second, occupancy, and a sweep of the launch settings."""

from __future__ import annotations

import importlib
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import kernels, loss, record, sweep, timed
from benchmarks.gpu.record import Context, Figures
from benchmarks.performance.contenders import Case, Size
from otr_plugin import OTRConfig, otr_loss
from otr_plugin.loss.torch_kernel import padded
from otr_plugin.loss.tuned import settings_of
from otr_plugin.metrics import ROW_METRICS

TITLE = "Where the time goes"
MINUTES = 5.0
INTERPRETED = True
STEPS = ("sampled", "exact")
KERNELS = {
    "sampled": OTRConfig(),
    "sampled, top_p": OTRConfig(top_p=0.9),
    "exact": OTRConfig(estimator="exact"),
    "sft": OTRConfig(objective="sft"),
    "power": OTRConfig(objective="power", alpha=0.7),
    "eaft": OTRConfig(objective="eaft"),
}
# How often a kernel must read or write a chunk's logits: two passes read them, one of which writes the gradient.
# top_p reads them 34 times more: for the row's ends, for the whole mass, and for 32 bisections.
PASSES = {"sampled": 3, "sampled, top_p": 37, "exact": 3, "sft": 3, "power": 3, "eaft": 3}
ROUNDS, WARM_UP = 7, 2
COMPILED, LAUNCH, CHUNKS = "registers and occupancy", "sweep of the launch", "sweep of the chunks"
# What a kernel is for, by a part of its name: PyTorch's own and cuBLAS's, hipBLASLt's, and this package's.
KINDS = {
    "ours: loss kernel": r"\bloss_kernel",
    "ours: thresholds": r"threshold_kernel",
    "matrix products": r"gemm|nvjet|cutlass|cijk_|aten::(add)?mm|xmma|splitk",
    "sort of the uniforms": r"sort|radix",
    "random numbers": r"distribution|philox|aten::rand|uniform",
    "copies and fills": r"memcpy|memset|copy|fill|aten::zero",
}


def cells(small: bool) -> list[str]:
    sizes = loss.SMALL_SIZES if small else loss.SIZES
    first = next(iter(sizes))
    return [
        *(f"step, {estimator}, {size}" for size in sizes for estimator in STEPS),
        *(f"kernels, {size}" for size in sizes),
        COMPILED,
        f"{LAUNCH}, {first}",
        f"{CHUNKS}, {first}",
    ]


def measure(cell: str, context: Context) -> Figures:
    if cell == COMPILED:
        return _compiled(context)
    what, _, rest = cell.partition(", ")
    size = (loss.SIZES | loss.SMALL_SIZES)[rest.rpartition(", ")[2]]
    if what == "step":
        return shares(size, rest.partition(", ")[0], context.device)
    if what == "kernels":
        return {"rates": rates(Chunk(size, context))}
    if what == LAUNCH:
        return sweep.launches(Chunk(size, context).seconds, context)
    return sweep.chunks(size, context)


# Shares of a step


def shares(size: Size, estimator: str, device: str) -> Figures:
    """Milliseconds of a step by kind of kernel, by PyTorch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    case = Case.make(size, False, device=device, dtype=torch.bfloat16)
    config = OTRConfig(estimator=estimator)

    def step() -> None:
        case.clear_gradients()
        otr_loss(case.hidden, case.weight, case.labels, config).loss.backward()
        if device != "cpu":
            torch.cuda.synchronize()

    step()
    on_gpu = device != "cpu"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        step()
    found: dict[str, float] = {}
    for event in profiled.key_averages():
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if time:
            found[kind_of(event.key)] = found.get(kind_of(event.key), 0.0) + time / 1000
    return {"milliseconds": found, "names": sorted({one.key[:80] for one in profiled.key_averages()})[:60]}


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower())), "other")


# One chunk


class Chunk:
    """One chunk of logits, of at most 1 GiB, and the kernels on it."""

    def __init__(self, size: Size, context: Context) -> None:
        device = self.device = context.device
        self.v, self.samples = size.v, 8 if context.small else OTRConfig().samples
        self.rounds, self.warm_up = (1, 0) if context.small else (ROUNDS, WARM_UP)
        self.rows = max(1, min(size.n, 2**30 // (2 * size.v)))
        g = torch.Generator(device).manual_seed(0)
        self.fresh = torch.randn(self.rows, padded(size.v), generator=g, device=device, dtype=torch.bfloat16) * 2
        self.labels = torch.randint(0, size.v, (self.rows,), generator=g, device=device)
        self.uniforms = torch.rand(self.rows, self.samples, generator=g, device=device)
        self.logits = torch.empty_like(self.fresh)
        self.row_metrics = torch.empty(self.rows, len(ROW_METRICS), device=device)

    @property
    def bytes(self) -> int:
        return self.rows * self.v * 2

    def step(self, config: OTRConfig) -> Callable[[], None]:
        compute_chunk = importlib.import_module("otr_plugin.loss.triton.launch").compute_chunk
        uniforms = self.uniforms if config.draws else None
        config = config.model_copy(update={"samples": self.samples})
        options: dict[str, Any] = {"vocabulary": self.v, "logit_scale": 1.0, "softcap": None, "with_grad": True}
        return lambda: compute_chunk(self.logits, self.labels, uniforms, self.row_metrics, config, **options)

    def seconds(self, config: OTRConfig) -> float:
        """The median of some rounds. The logits are fresh for each, because the kernel overwrites them."""
        step, found = self.step(config), []
        for turn in range(self.warm_up + self.rounds):
            self.logits.copy_(self.fresh)
            time = timed.seconds_of(self.device, step)
            if turn >= self.warm_up:
                found.append(time)
        return statistics.median(found)


def rates(chunk: Chunk) -> Figures:
    """For a copy and each kernel: GB/s of what it must read and write, with the sort of the uniforms."""
    copies = [timed.seconds_of(chunk.device, lambda: chunk.logits.copy_(chunk.fresh)) for _ in range(WARM_UP + ROUNDS)]
    found = {"copy": 2 * chunk.fresh.nbytes / statistics.median(copies[WARM_UP:]) / 1e9}
    for name, config in KERNELS.items():
        found[name] = PASSES[name] * chunk.bytes / chunk.seconds(config) / 1e9
    return found


def _compiled(context: Context) -> Figures:
    """Registers, spills and occupancy by the compiler for this card; on a CPU, for a stand-in."""
    target = "sm_80" if context.device == "cpu" else str(record.card()["architecture"])
    from benchmarks.gpu import compiled

    if target not in compiled.PROCESSORS:
        return {"target": target, "why not": f"compiled.PROCESSORS has no {target}"}
    only = ("--only", "sampled") if context.small else ()
    return {"target": target, "kernels": kernels.compile_for(target, *only), "settings": settings_of(target)._asdict()}


# The page


def lines(cells: dict[str, Figures]) -> list[str]:
    found: list[str] = []
    steps = {name.removeprefix("step, "): one for name, one in cells.items() if "milliseconds" in one}
    if steps:
        kinds = list(dict.fromkeys(kind for one in steps.values() for kind in one["milliseconds"]))
        found += ["A step with a frozen head, by PyTorch's profiler:", ""]
        found += ["| step | " + " | ".join(kinds) + " |", "|---|" + "---:|" * len(kinds)]
        for name, one in steps.items():
            total = sum(one["milliseconds"].values())
            texts = [_share(one["milliseconds"].get(kind), total) for kind in kinds]
            found.append(f"| {name} | " + " | ".join(texts) + " |")
    chunks = {name.removeprefix("kernels, "): one["rates"] for name, one in cells.items() if "rates" in one}
    if chunks:
        names = list(next(iter(chunks.values())))
        found += [
            "",
            "One chunk of logits: GB a second that the kernel must read and write, as a share of a copy's:",
            "",
        ]
        found += ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for size, one in chunks.items():
            texts = [f"{rate:,.4g} ({rate / one['copy']:.0%})" for rate in one.values()]
            found.append(f"| {size} | " + " | ".join(texts) + " |")
    taken = cells.get(COMPILED, {})
    if "kernels" in taken:
        found += [
            "",
            f"The compiler's figures for {taken['target']}, and the programs that a processor runs at one time:",
        ]
        found += ["", *kernels.table(taken["kernels"])]
    elif "why not" in taken:
        found += ["", f"No compiler's figures: {taken['why not']}."]
    return found + sweep.lines({name: one for name, one in cells.items() if "tried" in one})


def _share(milliseconds: float | None, total: float) -> str:
    return "" if milliseconds is None else f"{milliseconds:,.2f} ms ({milliseconds / total:.0%})"


def plot(cells: dict[str, Figures], path: Path) -> bool:
    from matplotlib import pyplot

    steps = {name.removeprefix("step, "): one["milliseconds"] for name, one in cells.items() if "milliseconds" in one}
    swept = {name: one for name, one in cells.items() if "tried" in one}
    if not steps:
        return False
    figure, axes = pyplot.subplots(1, 1 + len(swept), figsize=(5 + 4 * len(swept), 3.6), layout="constrained")
    first, *others = axes if swept else [axes]
    left = [0.0] * len(steps)
    for kind in (*KINDS, "other"):
        widths = [one.get(kind, 0.0) / sum(one.values()) for one in steps.values()]
        if any(widths):
            first.barh(list(steps), widths, 0.6, left, label=kind)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    first.invert_yaxis()
    first.set_xlabel("share of a step")
    first.legend(loc="upper center", bbox_to_anchor=(0.4, -0.18), fontsize=8, frameon=False, ncols=2)
    for axis, (name, one) in zip(others, swept.items(), strict=True):
        sweep.draw(axis, name, one)
    for axis in (first, *others):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
