"""The recording of a tour as an animated SVG, without script, font or address: it plays in any page that shows images.

The lines appear when they came, and the terminal scrolls. Where nothing is animated, its last screen stands still.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from benchmarks.tour.terminal import COLUMNS

SHOWN = 34  # lines of the window
WIDTH, HEIGHT, SIZE = 8.4, 17, 14  # pixels: of a character, of a line, of the font
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
MARGIN, BAR = 14, 30
START, READING, END = 0.3, 2.0, 6.0  # seconds: before the first command, after each one, before it starts again
IDLE = 2.0  # seconds: longer times in which nothing comes are shortened to this
STILL = Console(width=COLUMNS, color_system="truecolor", force_terminal=True)


def svg(steps: list[dict[str, Any]]) -> str:
    lines, total = timed(steps)
    width, height = COLUMNS * WIDTH + 2 * MARGIN, SHOWN * HEIGHT + 2 * MARGIN + BAR
    texts, frames = [], []
    for index, (when, line) in enumerate(lines):
        texts.append(f'<g style="animation-name:l{index}">{_texts(line, index)}</g>')
        start = 100 * when / total
        frames.append(f"@keyframes l{index}{{0%,{start:.3f}%{{opacity:0}}{start + 0.001:.3f}%,100%{{opacity:1}}}}")
    stops = [(0.0, 0)]
    for index in range(SHOWN, len(lines)):
        stops.append((100 * lines[index][0] / total, index + 1 - SHOWN))
    scroll = "".join(f"{start:.3f}%{{transform:translateY(-{rows * HEIGHT}px)}}" for start, rows in _steps(stops))
    last = max(0, len(lines) - SHOWN) * HEIGHT
    dots = "".join(
        f'<circle cx="{MARGIN + 6 + 20 * i}" cy="{BAR / 2 + 2}" r="6" fill="{colour}"/>'
        for i, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
            "<title>A recording of a terminal: " + escape(", ".join(step["command"] for step in steps)) + "</title>",
            "<style>",
            f"text{{font:{SIZE}px {FONTS};white-space:pre}}",
            f"g g{{animation:0s step-end infinite;animation-duration:{total:.2f}s}}",
            f".all{{transform:translateY(-{last}px);animation:scroll {total:.2f}s step-end infinite}}",
            f"@keyframes scroll{{{scroll}}}",
            *frames,
            "@media (prefers-reduced-motion){.all,g g{animation:none}}",
            "</style>",
            f'<rect width="100%" height="100%" rx="8" fill="{_hex(MONOKAI.background_color)}"/>',
            dots,
            f'<svg xml:space="preserve" y="{BAR + MARGIN}" width="{width:g}" height="{SHOWN * HEIGHT}"><g class="all">',
            *texts,
            "</g></svg>",
            "</svg>",
            "",
        ]
    )


def timed(steps: list[dict[str, Any]]) -> tuple[list[tuple[float, str]], float]:
    """All lines with the second at which each appears, and the seconds of the whole recording."""
    lines: list[tuple[float, str]] = []
    now = START
    for step in steps:
        lines.append((now, f"\x1b[1;32m$\x1b[0m \x1b[1m{step['command']}\x1b[0m"))
        before = 0.0
        for when, line in [*step["lines"], (step["seconds"], "")]:
            now += min(max(when - before, 0.0), IDLE)
            before = max(when, before)
            lines.append((now, line))
        now += READING
    return lines, now + END


def _steps(stops: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The last of the stops at each moment, and the end."""
    return [*sorted({round(start, 3): rows for start, rows in stops}.items()), (100.0, stops[-1][1])]


def _texts(line: str, index: int) -> str:
    parts, column = [], 0
    y = (index + 1) * HEIGHT - 5
    segments = Segment.adjust_line_length(list(Text.from_ansi(line).render(STILL)), COLUMNS, pad=False)
    for text, style, _ in segments:
        cells = cell_len(text)
        if text.strip():
            place = f'x="{MARGIN + column * WIDTH:.1f}" y="{y}" textLength="{cells * WIDTH:.1f}"'
            parts.append(f"<text {place}{_look(style or Style())}>{escape(text)}</text>")
        column += cells
    return "".join(parts)


def _look(style: Style) -> str:
    colour = _hex(style.color.get_truecolor(MONOKAI) if style.color else MONOKAI.foreground_color)
    look = f' fill="{colour}"'
    look += ' style="font-weight:bold"' if style.bold else ""
    return look + (' opacity="0.6"' if style.dim else "")


def _hex(colour: Any) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
