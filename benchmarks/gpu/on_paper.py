"""How long the pieces take on an H100, by arithmetic, beside their budgets and the minutes that they took.

The rates are published or from the maker's table; nothing here was measured by this project:

- matrix products: 485 TFLOP/s in bfloat16, from the 42 ms of the two bare GEMMs at 8192 × 151936 × 4096
  (huggingface/trl#7244);
- the other losses at that size: Liger 192 ms, TRL's chunked head 167 ms (the same thread), and Cut Cross Entropy
  92.6 ms at 16384 × 248320 × 2048 (huggingface/trl#6858);
- memory: 3.35 TB/s (NVIDIA's table of the H100 SXM).

Seconds for starting a process, and for compiling a kernel, are stated with generous margins.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu import fit, loss, memory, right, study, sweep, where
from benchmarks.gpu.record import Piece

FLOP_RATE = 485e12
BYTE_RATE = 3.35e12
COMPILE = 1.0  # seconds for a kernel of Triton, on one core; `python -m benchmarks kernels` takes 0.9
START = 15.0  # seconds for a process that imports torch, transformers and PEFT
TUNE = 60.0  # seconds in which Liger's, TRL's and Cut Cross Entropy's kernels compile and tune themselves, for a size
# Multiples of the bare GEMMs.
LIGERS, TRLS = 192 / 42, 167 / 42
CUTS = 92.6e-3 * FLOP_RATE / (4 * 16384 * 248320 * 2048)
WHOLE = 2.5  # losses on whole logits: some ten passes over 4 bytes for each logit, beside the GEMMs
SAMPLED = 1.15  # the bar
PARITY_TESTS = 1200
# What the tests compile: 14 kinds of kernels (settings that are constants of the kernel, and thresholds), for 7 sizes
# of the vocabulary in 3 types, for 4 kinds of scaled heads in 2 types, and some 250 random or single cases.
PARITY_KERNELS = 14 * 7 * 3 + 14 * 4 * 2 + 250
RATES = (
    "The arithmetic is `benchmarks/gpu/on_paper.py`: 485 TFLOP/s for the matrix products, as published for the bare "
    "GEMMs on an H100 (huggingface/trl#7244), 3.35 TB/s of memory, and a second to compile a kernel. It is not a "
    "measurement."
)
QLORA_FLOP = 8  # for each weight and token: forward, forward again, gradients of activations, and unpacking
QLORA_SHARE = 0.4  # of the GEMMs' rate, because rows of 4-bit weights are unpacked first


def gemms(n: int, v: int, d: int, products: int) -> float:
    """Seconds of the bare GEMMs."""
    return products * 2 * n * v * d / FLOP_RATE


def seconds() -> dict[str, tuple[float, str]]:
    """For each piece, the seconds and the arithmetic in words."""
    return {
        "right": _right(),
        "loss": _loss(),
        "where": _where(),
        "fit": _fit(),
        "memory": _memory(),
        "study": (60 * study.MINUTES, "what is left of the 40 minutes, in calls of at most 8"),
    }


def _right() -> tuple[float, str]:
    total = (PARITY_KERNELS * COMPILE + PARITY_TESTS * 0.05) / right.AT_ONCE + 2 * START
    return total, (
        f"{PARITY_KERNELS} kernels to compile and {PARITY_TESTS} tests of 50 ms, in {right.AT_ONCE} processes at a time"
    )


@functools.cache
def _loss() -> tuple[float, str]:
    multiples = 1 + WHOLE * 2 + LIGERS + TRLS + CUTS * 2 + SAMPLED * 4
    runs = loss.ROUNDS + 3
    each = [
        gemms(size.n, size.v, size.d, products) * multiples * runs
        for size in loss.SIZES.values()
        for products in (2, 3)
    ]
    total = sum(each) + len(loss.SIZES) * (TUNE + 8 * COMPILE) + START
    return total, (
        f"{multiples:.0f} × the GEMMs of 4 sizes and 2 heads, {runs} times: {sum(each):.0f} s; a minute of "
        "compiling and tuning for each size"
    )


def _where() -> tuple[float, str]:
    grid = sweep.GRID
    compiled = len(grid["block"]) * len(grid["warps"]) + len(grid["draws"])
    launches = (compiled + 1) * len(grid["programs"])
    chunk = 3 * 2**30 / BYTE_RATE
    total = compiled * COMPILE + launches * (where.ROUNDS + where.WARM_UP) * 4 * chunk
    total += len(loss.SIZES) * (len(where.KERNELS) + len(where.STEPS)) * COMPILE + 60 + START
    return total, (
        f"{compiled} kernels to compile, {launches} settings of {where.ROUNDS + where.WARM_UP} runs of a chunk, which "
        f"takes {1000 * chunk:.1f} ms at the memory's rate and four times that for a slow setting; the kernels of "
        "4 sizes; a minute of the compiler for registers"
    )


def _fit() -> tuple[float, str]:
    weights, tokens = 8e9, 100_000  # of all steps of the four searches
    search = QLORA_FLOP * weights * tokens / (FLOP_RATE * QLORA_SHARE)
    each = START + 20 + search
    count = len(fit.cells(False))
    return count * each, f"{count} processes: 20 s for a model, {search:.0f} s for {tokens:,} tokens of steps"


def _memory() -> tuple[float, str]:
    count = len(memory.cells(False))
    return count * 15 + START, f"{count} recipes, 15 s each for a model on zeros and two steps"


def lines(measured: Mapping[str, dict[str, Any]], pieces: Mapping[str, Piece]) -> list[str]:
    """The table: the budget, the arithmetic, and what the cells took."""
    expected = seconds()
    found = ["| piece | budget | by arithmetic, on an H100 | it took |", "|---|---:|---|---:|"]
    for name, piece in pieces.items():
        took = sum(float(cell.get("took", 0)) for cell in measured.get(name, {}).values())
        spent = f"{took / 60:.1f} min" if took else ""
        minutes, words = expected[name][0] / 60, expected[name][1]
        found.append(f"| {piece.TITLE} | {piece.MINUTES:g} min | {minutes:.1f} min: {words} | {spent} |")
    return found


def docs_table(_: Path) -> list[str]:
    """The pieces, their budgets and the arithmetic."""
    from benchmarks.gpu.command import PIECES

    found = ["| piece | budget | by arithmetic, on an H100 |", "|---|---:|---|"]
    for name, (expected, words) in seconds().items():
        piece = PIECES[name]
        found.append(f"| {piece.TITLE} | {piece.MINUTES:g} min | {expected / 60:.1f} min: {words} |")
    return [*found, "", RATES]
