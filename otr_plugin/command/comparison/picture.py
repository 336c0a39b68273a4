"""The curves as a PNG, by matplotlib, where it is installed."""

from __future__ import annotations

import io

from otr_plugin.command.comparison import curves, show
from otr_plugin.command.comparison.comparison import Comparison
from otr_plugin.command.console import CANNOT_TELL, Failure

COLOURS = ("#2f66b1", "#c4551d", "#2f8050", "#8347a5", "#9a7400", "#b03a62")
COLUMNS = 2


def drawn(found: Comparison) -> bytes:
    """The content of the file."""
    try:
        import matplotlib
    except ImportError:
        message = "--png needs matplotlib, which is not installed here: `pip install matplotlib`, or use --html"
        raise Failure(message, CANNOT_TELL) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = curves.panels(found)
    rows = -(-len(panels) // COLUMNS) or 1
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(12, 3.4 * rows), layout="constrained", squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for line in panel.lines:
            number, *faint = line.kind.split()
            colour = COLOURS[int(number[1:]) % len(COLOURS)]
            x, y = zip(*line.points, strict=True) if line.points else ((), ())
            if line.has_marks:
                axis.errorbar(x, y, [each or 0 for each in line.errors] or None, color=colour, marker="o", capsize=3)
            else:
                axis.plot(x, y, color=colour, linewidth=0.8 if faint else 1.8, alpha=0.4 if faint else 1)
        axis.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
        if panel.has_zero:
            axis.axhline(0, color="#888888", linewidth=0.8)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    handles = [pyplot.Line2D([], [], color=COLOURS[i % len(COLOURS)]) for i in range(len(found.runs))]
    figure.legend(handles, [run.name for run in found.runs], loc="outside upper left", ncols=3, frameon=False)
    figure.suptitle(show.verdict(found), fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    pyplot.close(figure)
    return content.getvalue()
