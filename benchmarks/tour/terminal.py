"""Runs a command in a pseudo-terminal, and keeps what its screen shows: each line, and when it was last written."""

from __future__ import annotations

import os
import pty
import re
import resource
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

COLUMNS, ROWS = 110, 40
# A colour or style, which is kept; a movement of the cursor or a deletion; other control sequences; or a character.
PIECES = re.compile(
    r"(?P<style>\x1b\[[\d;]*m)|\x1b\[(?P<count>\d*)(?P<move>[ABCDGJK])"
    r"|\x1b\[[^A-Za-z]*[A-Za-z]|\x1b\][^\x07]*\x07|[^\x1b]"
)


@dataclass
class Screen:
    """Lines with their styles. Programs write progress over a line that they have written before."""

    lines: list[str] = field(default_factory=lambda: [""])
    times: list[float] = field(default_factory=lambda: [0.0])
    row: int = 0
    is_at_start: bool = False  # of a line that has characters: the next one replaces them

    def write(self, text: str, now: float) -> None:
        for piece in PIECES.finditer(text):
            move, character = piece["move"], piece[0]
            if move == "A":
                self.row = max(0, self.row - int(piece["count"] or 1))
            elif move == "K":
                self._set("", now)
            elif character == "\r":
                self.is_at_start = True
            elif character == "\n":
                self.row, self.is_at_start = self.row + 1, False
                if self.row == len(self.lines):
                    self.lines.append("")
                    self.times.append(now)
            elif piece["style"] or (not move and len(character) == 1):
                self._set(character if self.is_at_start else self.lines[self.row] + character, now)
                self.is_at_start = False

    def _set(self, line: str, now: float) -> None:
        self.lines[self.row], self.times[self.row] = line, now


@dataclass(frozen=True)
class Recording:
    """What a command printed: lines with ANSI styles, and the seconds after its start at which each came."""

    lines: list[str]
    times: list[float]
    seconds: float  # until its end
    cpu_seconds: float  # of it and of the processes that it started: other work on the machine is not in them
    exit_code: int


def record(words: list[str], folder: Path, environment: dict[str, str]) -> Recording:
    """Run a command to its end."""
    ours, its = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
    started, cpu_before = time.monotonic(), _cpu_seconds()
    process = subprocess.Popen(words, cwd=folder, env=environment | size, stdin=its, stdout=its, stderr=its)
    os.close(its)
    screen, rest = Screen(), b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the last process has closed its end
            data = b""
        now = round(time.monotonic() - started, 2)
        # Up to the end of a line: a character or a control sequence may be cut in two.
        end = (rest + data).rfind(b"\n") + 1 if data else len(rest)
        whole, rest = (rest + data)[:end], (rest + data)[end:]
        screen.write(whole.decode(errors="replace"), now)
        if not data:
            break
    os.close(ours)
    exit_code = process.wait()
    seconds, cpu_seconds = time.monotonic() - started, _cpu_seconds() - cpu_before
    return Recording(screen.lines, screen.times, round(seconds, 2), round(cpu_seconds, 2), exit_code)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
