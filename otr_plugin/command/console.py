"""What every verb shares: its exit codes, its errors, its JSON and its tables."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

GOOD, PROBLEM, UNREADABLE, CANNOT_TELL = 0, 1, 2, 3
HOST_NAMES = ("axolotl", "llamafactory", "trl", "swift")  # here, so that --help need not import what reads recipes
SCHEMA_VERSION = 1  # of all JSON; a change that breaks a reader of it raises the number


class Failure(click.ClickException):
    """The end of a verb without a result: what is wrong and what to do, and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click's own classes set it for the class

    def show(self, file: Any = None) -> None:
        click.echo(f"otr: {self.message}", err=True)


def verb(**options: Any) -> Callable[[Callable[..., int]], click.Command]:
    """A click command whose function returns an exit code, and which has --json."""

    def make(function: Callable[..., int]) -> click.Command:
        @functools.wraps(function)
        def run(as_json: bool, **given: Any) -> None:
            try:
                code = function(as_json=as_json, **given)
            except Failure as failure:
                if not as_json:
                    raise
                emit({"error": failure.message})
                code = failure.exit_code
            click.get_current_context().exit(code)

        run = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(run)
        made: click.Command = click.command(**options)(run)
        return made

    return make


def emit(document: Mapping[str, Any]) -> None:
    """Print a document as JSON."""
    click.echo(json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, ensure_ascii=False))


def note(message: str) -> None:
    """A line for the person, which is not part of the output."""
    click.echo(f"otr: {message}", err=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, as wide as the terminal, without colours where the output is no terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for i, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=i == 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))  # as Text: a recipe's brackets are no markup
    Console(file=sys.stdout, highlight=False).print(made)
