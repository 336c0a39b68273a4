"""Pictures of a step's memory: bars by part and a chart over time for a terminal, and a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path

from otr_plugin.command.console import CANNOT_TELL, Failure
from otr_plugin.command.memory.card import GIB
from otr_plugin.command.memory.ledger import PARTS, Moment, Record

WIDTH, HEIGHT, BAR = 72, 8, 40
EIGHTHS = " ▁▂▃▄▅▆▇█"
COLOURS = ("#4c72b0", "#8172b3", "#937860", "#c44e52", "#55a868", "#ccb974")  # in the order of PARTS


def bars(peak: Moment) -> list[list[str]]:
    """A row for each part at the peak: its name, its GiB, and a bar."""
    most = max(peak.parts)
    return [
        [part, gib(size), "█" * max(round(BAR * size / most), 1)]
        for part, size in zip(PARTS, peak.parts, strict=True)
        if size
    ]


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def over_time(record: Record) -> list[str]:
    """A chart of the memory in use, from the forward pass to the update."""
    columns = sampled(record.moments, WIDTH)
    top = max(moment.total for moment in columns)
    levels = [round(8 * HEIGHT * moment.total / top) for moment in columns]
    lines = []
    for row in reversed(range(HEIGHT)):
        cells = "".join(EIGHTHS[min(max(level - 8 * row, 0), 8)] for level in levels)
        label = gib(top) if row == HEIGHT - 1 else "0" if row == 0 else ""
        lines.append(f"{label:>10} {cells.rstrip()}")
    names = ""
    for phase, moments in groupby(columns, key=lambda moment: moment.phase):
        width = len(list(moments))
        names += phase[:width].ljust(width) if width < len(phase) + 2 else f"|{phase}".ljust(width)
    return [*lines, f"{'':>10} {names.rstrip()}"]


def sampled(moments: Sequence[Moment], columns: int) -> list[Moment]:
    """As many moments as there are columns: the largest of each stretch."""
    count = min(columns, len(moments))
    edges = [len(moments) * i // count for i in range(count + 1)]
    return [max(moments[a:b], key=lambda moment: moment.total) for a, b in pairwise(edges)]


def save(record: Record, limit: float | None, title: str, path: Path) -> None:
    """Write the chart by part over time into a PNG. `limit` is drawn as a line, in bytes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        advice = "install it (pip install matplotlib), or leave out --png: the terminal shows the same"
        raise Failure(
            f"--png {path}: draws with matplotlib, which is not installed here: {advice}", CANNOT_TELL
        ) from None
    moments = sampled(record.moments, 1000)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes = [[moment.parts[index] / GIB for moment in moments] for index in range(len(PARTS))]
    axes.stackplot(range(len(moments)), sizes, labels=PARTS, colors=COLOURS, step="post")
    if limit is not None:
        axes.axhline(limit / GIB, color="black", linestyle="--", linewidth=1, label="what fits")
    starts = [0, *(i for i in range(1, len(moments)) if moments[i].phase != moments[i - 1].phase)]
    axes.set_xticks(starts, [moments[start].phase for start in starts], ha="left")
    axes.set(title=title, ylabel="GiB", xlim=(0, len(moments) - 1))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror}", CANNOT_TELL) from None
