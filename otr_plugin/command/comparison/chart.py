"""A line chart in SVG, in the page's colours: curves, points with error bars, and axes with round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

LARGE, SMALL = (640, 300), (360, 210)  # width and height, in units of the text's size of 13
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
LOG_FROM = 20  # a logarithmic axis, if the largest value is so many times the smallest


@dataclass
class Line:
    """`kind`: classes of the style sheet, such as "c0 faint". `errors`: half the height of each point's bar."""

    name: str
    points: list[tuple[float, float]]
    kind: str
    errors: list[float | None] = field(default_factory=list)
    has_marks: bool = False

    def with_errors(self) -> list[tuple[float, float, float | None]]:
        errors = self.errors or [None] * len(self.points)
        return [(x, y, error) for (x, y), error in zip(self.points, errors, strict=True)]


class Scale:
    """Where a value is in the picture."""

    def __init__(self, lines: Sequence[Line], has_zero: bool, size: tuple[int, int]) -> None:
        self.width, self.height = size
        every = [each for line in lines for each in line.with_errors()]
        low = min(y - (error or 0) for _, y, error in every)
        high = max(y + (error or 0) for _, y, error in every)
        self.is_log = not has_zero and low > 0 and high / low > LOG_FROM
        if self.is_log:
            low, high = math.log10(low), math.log10(high)
        elif has_zero:
            low, high = min(low, 0.0), max(high, 0.0)
        margin = 0.06 * (high - low) or 0.1 * max(abs(high), 1e-9)
        self.low, self.high = low - margin, high + margin
        self.end = max(x for x, _, _ in every) or 1.0

    def x(self, value: float) -> float:
        return LEFT + value / self.end * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        value = math.log10(value) if self.is_log else value
        return TOP + (self.high - value) / (self.high - self.low) * (self.height - TOP - BOTTOM)

    def ticks(self) -> list[float]:
        if not self.is_log:
            return round_numbers(self.low, self.high, self.height // 42)
        exponents = range(math.floor(self.low), math.ceil(self.high) + 1)
        found = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
        return [value for value in found if self.low <= math.log10(value) <= self.high]


def round_numbers(low: float, high: float, most: int) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next((step * m for m in (1, 2, 5) if (high - low) / (step * m) <= most), step * 10)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    for unit, size, least in (("B", 1e9, 1e9), ("M", 1e6, 1e6), ("k", 1e3, 1e4)):
        if abs(value) >= least:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def draw(
    title: str, labels: tuple[str, str], lines: Sequence[Line], has_zero: bool = False, size: tuple[int, int] = LARGE
) -> str:
    """The chart as an SVG element; an empty text if there is nothing to draw. `labels`: of the axes x and y."""
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    scale = Scale(lines, has_zero, size)
    width, height = size
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for value in scale.ticks():
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{width - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{label(value)}</text>')
    for value in round_numbers(0, scale.end, 5):
        parts.append(f'<text class="mid" x="{scale.x(value):.1f}" y="{height - BOTTOM + 18}">{label(value)}</text>')
    if has_zero:
        parts.append(f'<path class="zero" d="M{LEFT} {scale.y(0):.1f}H{width - RIGHT}"/>')
    for line in lines:
        parts += _drawn(line, scale)
    parts.append(f'<text class="mid" x="{(LEFT + width - RIGHT) / 2}" y="{height - 6}">{escape(labels[0])}</text>')
    middle = (TOP + height - BOTTOM) / 2
    parts.append(f'<text class="mid" transform="translate(14 {middle}) rotate(-90)">{escape(labels[1])}</text>')
    return "\n".join([*parts, "</svg>"])


def _drawn(line: Line, scale: Scale) -> list[str]:
    path = "L".join(f"{scale.x(x):.1f} {scale.y(y):.1f}" for x, y in line.points)
    parts = [f'<path class="line {line.kind}" d="M{path}"><title>{escape(line.name)}</title></path>']
    for x, y, error in line.with_errors():
        if error is not None:
            bar = f"M{scale.x(x):.1f} {scale.y(y + error):.1f}V{scale.y(y - error):.1f}"
            parts.append(f'<path class="bar {line.kind}" d="{bar}"/>')
        if line.has_marks:
            text = f"{line.name}: {y:.4f}" + ("" if error is None else f" ± {error:.4f}")
            mark = f'<circle class="mark {line.kind}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="4">'
            parts.append(f"{mark}<title>{escape(text)}</title></circle>")
    return parts
