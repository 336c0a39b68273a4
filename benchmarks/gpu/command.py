"""Everything that only a GPU can tell, in pieces of at most 8 minutes that resume, 40 minutes in all.

    make gpu                      # on a machine with a GPU; WHEELS=folder installs from a folder of wheels
    make gpu SMALL=1              # the same at toy sizes, on any CPU: does every piece run?
    python -m benchmarks gpu      # in an environment that has the packages

A piece consists of cells. A cell is kept as soon as it is measured, in benchmarks/results/gpu-CARD/PIECE.json; the same
command, run again on the same card with the same versions, measures those that are missing. At the end, page.md shows
all of them. A piece that has used up its minutes ends; if time is left at the end, unfinished pieces go on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.gpu import fit, loss, memory, page, record, right, study, where
from benchmarks.gpu.record import Context, Piece, Record
from benchmarks.paths import RESULTS, ROOT

PIECES: dict[str, Piece] = {
    "right": right,
    "loss": loss,
    "where": where,
    "fit": fit,
    "memory": memory,
    "study": study,
}
AT_MOST = 8.0  # minutes of a call of one piece
IN_ALL = 40.0  # minutes
GRACE = 60.0  # seconds after a piece's minutes until its process is ended, in the middle of a cell
SMALL = ROOT / ".cache" / "gpu-small"


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--small", action="store_true", help="toy sizes, also without a GPU: does every piece run?")
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES), help="by default all")
    parser.add_argument("--minutes", type=float, default=IN_ALL, help="in all (default %(default)g)")
    parser.add_argument("--out", type=Path, help="folder of the results; default: benchmarks/results/gpu-CARD")
    parser.add_argument("--alone", metavar="PIECE", choices=PIECES, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if not args.small and not torch.cuda.is_available():
        sys.exit("benchmarks gpu: PyTorch finds no GPU. --small runs every piece at toy size on a CPU.")
    out = (args.out or (SMALL if args.small else RESULTS / record.folder_name())).resolve()
    if args.alone:
        measure_missing(args.alone, Context(_device(), args.small, _deadline(args.minutes), out))
        return
    end = _deadline(args.minutes)
    print(f"{record.card()['card']}. Results go to {out}.")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    ) as bars:
        run_pieces(args.pieces, args.small, out, end, bars)
    text = page.write(out, PIECES)
    Console().print(Markdown(text))
    print(f"The page is {out / 'page.md'}.")
    kept = {name: Record.of(out / f"{name}.json", args.small) for name in args.pieces}
    for name, record_of_piece in kept.items():
        if cells := record_of_piece.missing(PIECES[name].cells(args.small)):
            print(f"{name}: {len(cells)} cells are left; the same command continues: {', '.join(cells)}")
    if errors := [line for name in kept for line in _errors(name, kept[name])]:
        sys.exit("\n".join(["These cells failed; the same command tries them again:", *errors]))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _deadline(minutes: float) -> float:
    return time.monotonic() + 60 * minutes


def _errors(piece: str, kept: Record) -> list[str]:
    return [f"{piece}, {name}: {one['error']}" for name, one in kept.cells.items() if "error" in one]


def run_pieces(names: list[str], small: bool, out: Path, end: float, bars: Progress) -> None:
    """One call of each piece, then more of those that are unfinished, while time is left and they get on."""
    task = bars.add_task("", total=sum(PIECES[name].MINUTES for name in names))
    done_before = 0.0
    for name in names:
        piece = PIECES[name]
        bars.update(task, description=f"{name}: {piece.TITLE}"[:40].ljust(40), completed=done_before)
        _call(name, small, out, min(piece.MINUTES, AT_MOST, (end - time.monotonic()) / 60), bars, task, done_before)
        done_before += piece.MINUTES
    bars.update(task, completed=done_before)
    for name in names:
        while (left := (end - time.monotonic()) / 60) > 1 and not small:
            bars.update(task, description=f"{name}, in the time that is left"[:40].ljust(40))
            if not _call(name, small, out, min(AT_MOST, left), bars, task, done_before):
                break


def _call(name: str, small: bool, out: Path, minutes: float, bars: Progress, task: TaskID, done_before: float) -> bool:
    """Measures missing cells of a piece, in a process of its own. Whether the piece has got on."""
    path, piece = out / f"{name}.json", PIECES[name]
    total = len(piece.cells(small))
    before = Record.of(path, small)
    left = len(before.missing(piece.cells(small)))
    if not left or minutes <= 0:
        return False
    command = [sys.executable, "-m", "benchmarks", "gpu", "--alone", name, "--minutes", f"{minutes:.2f}"]
    command += ["--out", str(out), *(["--small"] if small else [])]
    log = out / f"{name}.log"
    out.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_environment(piece),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        timer = threading.Timer(60 * minutes + GRACE, _end, [process])
        timer.start()
        try:
            _follow(process.stdout, bars, task, done_before, piece.MINUTES / total, total - left)
            process.wait()
        finally:
            timer.cancel()
            _end(process)
    if process.returncode:
        bars.console.print(f"{name}: its process ended with {process.returncode}; {log} has what it printed.")
    return Record.of(path, small).figures() != before.figures()


def _environment(piece: Piece) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if piece.INTERPRETED and not torch.cuda.is_available():
        found["TRITON_INTERPRET"] = "1"
    return found


def _follow(lines: IO[str] | None, bars: Progress, task: TaskID, before: float, each: float, done: int) -> None:
    """Advances the bar by every cell that the piece's process prints."""
    assert lines is not None
    for line in lines:
        if line.startswith("cell "):
            done += 1
            bars.update(task, completed=before + each * done)
        bars.console.print(line.rstrip(), highlight=False)


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process and what it started, which are a group of their own."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure_missing(name: str, context: Context) -> None:
    """In the piece's own process: measures cell by cell until the deadline."""
    piece = PIECES[name]
    kept = Record.of(context.out / f"{name}.json", context.small)
    for cell in kept.missing(piece.cells(context.small)):
        if time.monotonic() > context.deadline:
            return
        started = time.monotonic()
        try:
            figures = piece.measure(cell, context)
        except Exception as error:  # whatever a card, a driver or another library may do
            traceback.print_exc()
            figures = {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        kept.keep(cell, figures | {"took": round(time.monotonic() - started, 1)})
        state = figures.get("error") or figures.get("unfinished") or "done"
        print(f"cell {name}, {cell}: {state}, {kept.cells[cell]['took']} s", flush=True)
