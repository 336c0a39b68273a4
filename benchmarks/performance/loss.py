"""Time and peak memory of the loss on this machine's CPU, for every contender in one run."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import provenance
from benchmarks.paths import RESULTS
from benchmarks.performance import memory, timing
from benchmarks.performance.contenders import BY_HAND, CROSS_ENTROPY, EXACT, FLOOR, SAMPLED, Case, Size, available

SIZES = [Size(1024, 512, 151936), Size(512, 2048, 151936), Size(2048, 1024, 32000)]
GROWTH = [Size(n, 512, 151936) for n in (512, 2048, 4096)]
GROWING = [FLOOR, CROSS_ENTROPY, BY_HAND, SAMPLED, EXACT]
SMALL = [Size(64, 32, 1000)]


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="counted runs of each contender (default 3)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, only to check that the benchmark runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "loss-cpu", help="result file, without its suffix")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    sizes, growth = (SMALL, SMALL) if args.small else (SIZES, GROWTH)
    contenders_here = available()
    growing = {name: contenders_here[name] for name in GROWING}
    heads = (True,) if args.small else (False, True)
    cells = [(size, trainable, "sizes", contenders_here) for size in sizes for trainable in heads]
    cells += [(size, False, "growth", growing) for size in growth]
    results: dict[str, Any] = provenance.collect(("torch", "trl"))
    results |= {"dtype": "float32", "rounds": args.rounds, "sizes": [], "growth": []}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        steps = sum(len(contenders) for *_, contenders in cells)
        bar = progress.add_task("", total=steps * (args.rounds + 2))
        for size, trainable, part, contenders in cells:
            progress.update(bar, description=f"{tuple(size)} {'trainable' if trainable else 'frozen'}")
            case = Case.make(size, trainable)
            seconds = timing.interleaved_seconds(case, contenders, args.rounds, lambda: progress.advance(bar))
            del case
            cell: dict[str, Any] = {
                "n": size.n,
                "d": size.d,
                "v": size.v,
                "trainable": trainable,
                "contenders": {},
            }
            for name in contenders:
                cell["contenders"][name] = {
                    "seconds": statistics.median(seconds[name]),
                    "ratio": timing.median_ratio(seconds[name], seconds[FLOOR]),
                    "megabytes": memory.peak_megabytes(name, size, trainable),
                }
                progress.advance(bar)
            cell["by hand / sampled"] = timing.median_ratio(seconds[BY_HAND], seconds[SAMPLED])
            results[part].append(cell)
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))
    print(f"written to {args.out}.json and .md")


def render(results: dict[str, Any]) -> str:
    """Returns the Markdown page of the results."""
    method = (
        f"{results['dtype']}, forward and backward. Time is the median, over {results['rounds']} rounds in which the "
        "contenders take turns, of the ratio to the bare GEMMs of the same round: two GEMMs with a frozen head, three "
        "with a trainable one. Memory is the peak of one step above what its inputs take, measured in a process of its "
        "own. F.linear_cross_entropy and TRL's head compute plain cross entropy; the default of the former on a CPU is "
        "chunks of 2 rows, which take minutes."
    )
    lines = ["# The loss on a CPU", "", provenance.describe(results), "", method]
    for trainable in (False, True):
        cells = [cell for cell in results["sizes"] if cell["trainable"] == trainable]
        if cells:  # --small measures one kind of head
            lines += ["", f"## {'Trainable' if trainable else 'Frozen'} head", "", *table(cells)]
    lines += ["", "## Growth with N, frozen head", "", *table(results["growth"])]
    return "\n".join(lines) + "\n"


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Returns the lines of the page's table of these cells, with the ratio of OTR by hand to ours as its last row."""
    lines = grid(cells, lambda f: f"{f['ratio']:.2f} × ({f['seconds']:.2f} s), {f['megabytes']:,.0f} MB")
    speedups = [f"{cell['by hand / sampled']:.2f} ×" for cell in cells]
    return [*lines, "| *by hand, as a multiple of ours: sampled* | " + " | ".join(speedups) + " |"]


def readme_figures(results: dict[str, Any]) -> list[str]:
    """Returns the lines of the README's table: a frozen head, every size."""
    cells = [cell for cell in results["sizes"] if not cell["trainable"]]
    lines = grid(cells, lambda f: f"{f['ratio']:.2f} ×, {f['megabytes']:,.0f} MB")
    return [*lines, "", provenance.describe(results)]


def grid(cells: list[dict[str, Any]], show: Callable[[dict[str, Any]], str]) -> list[str]:
    """Returns the lines of a Markdown table with a row for each contender and a column for each cell of the results."""
    head = [f"N={cell['n']}, D={cell['d']}, V={cell['v']}{trained_share(cell)}" for cell in cells]
    lines = ["| | " + " | ".join(head) + " |", "|---|" + "---:|" * len(cells)]
    for name in cells[0]["contenders"]:
        lines.append(f"| {name} | " + " | ".join(show(cell["contenders"][name]) for cell in cells) + " |")
    return lines


def trained_share(cell: dict[str, Any]) -> str:
    """Returns what a column's head adds where only a part of the positions is trained."""
    return f", {cell['trained']:.0%} trained" if cell.get("trained", 1) < 1 else ""
