"""The curves that the page and the picture draw, as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from otr_plugin.command.comparison.chart import Line
from otr_plugin.command.comparison.comparison import Comparison, metric_names
from otr_plugin.command.comparison.course import Course, common_marks, course_of

SMOOTH, RAW = 40, 400  # points of a curve: means over equal stretches, and at most so many as they were logged


@dataclass
class Panel:
    title: str
    x_label: str
    y_label: str
    lines: list[Line] = field(default_factory=list)
    has_zero: bool = False
    is_metric: bool = False


def panels(found: Comparison) -> list[Panel]:
    """The NLL, its differences from the first run, the evaluations, and OTR's metrics; those that have curves."""
    made = [_nll(found), _differences(found), _evaluations(found), *_metrics(found)]
    return [panel for panel in made if any(line.points for line in panel.lines)]


def points(course: Course, most: int) -> list[tuple[float, float]]:
    """The course as it was logged, or as means over `most` equal stretches if it has more entries."""
    if len(course.ends) <= most:
        return list(zip(course.ends, course.values, strict=True))
    width = course.ends[-1] / most
    return [((i + 0.5) * width, course.mean(i * width, (i + 1) * width)) for i in range(most)]


def _nll(found: Comparison) -> Panel:
    panel = Panel("NLL per token in training", found.unit, "NLL")
    for i, course in zip(found.compared, found.courses, strict=True):
        name = found.runs[i].name
        if len(course.ends) > SMOOTH:
            panel.lines.append(Line(f"{name}, as logged", points(course, RAW), f"c{i} faint"))
        panel.lines.append(Line(name, points(course, SMOOTH), f"c{i}"))
    return panel


def _differences(found: Comparison) -> Panel:
    """Each run's NLL minus that of the first: where all have logged, and the quarters' means with standard errors."""
    panel = Panel("", found.unit, "difference of NLL", has_zero=True)
    if not found.nll:
        return panel
    first, *others = found.courses
    panel.title = f"NLL minus that of {found.runs[found.compared[0]].name}, by quarters ± standard error"
    marks = common_marks(found.courses, found.nll[-1].end)
    for k, (i, course) in enumerate(zip(found.compared[1:], others, strict=True)):
        name = f"{found.runs[i].name} \N{MINUS SIGN} {found.runs[found.compared[0]].name}"
        pairs = [
            (end, course.mean(start, end) - first.mean(start, end))
            for start, end in zip([0.0, *marks], marks, strict=False)
        ]
        shown = [pair for pair in pairs if pair[0] > 0][-RAW:]
        panel.lines.append(Line(f"{name}, as logged", shown, f"c{i} faint"))
        middles = [((part.start + part.end) / 2, part.differences[k]) for part in found.nll]
        panel.lines.append(Line(name, middles, f"c{i}", [part.errors[k] for part in found.nll], has_marks=True))
    return panel


def _evaluations(found: Comparison) -> Panel:
    panel = Panel("NLL on the evaluation data", "steps", "eval_loss")
    for i, run in enumerate(found.runs):
        seen = [(float(each.step), loss) for each in found.evaluations if (loss := each.losses[i]) is not None]
        panel.lines.append(Line(run.name, seen, f"c{i}", has_marks=True))
    return panel


def _metrics(found: Comparison) -> list[Panel]:
    made = []
    for metric in metric_names(found.runs):
        panel = Panel(metric, "steps", "", is_metric=True)
        for i, run in enumerate(found.runs):
            course = course_of(run.log, metric, "step")
            panel.lines.append(Line(run.name, points(course, SMOOTH), f"c{i}"))
        made.append(panel)
    return made


def legend(found: Comparison) -> Sequence[tuple[str, str]]:
    return [(f"c{i}", run.name) for i, run in enumerate(found.runs)]
