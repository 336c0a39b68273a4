"""Where the verbs that change a recipe put the result: stdout, a diff, the recipe itself or another file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import click

from otr_plugin.command.console import note
from otr_plugin.command.files import write


def target_of(recipe: Path, show_diff: bool, in_place: bool, output: Path | None) -> Path | None:
    """The file to write; None for stdout."""
    if show_diff + in_place + (output is not None) > 1:
        raise click.UsageError("choose one of --diff, --in-place and -o")
    return recipe if in_place else output


def deliver(
    recipe: Path, source: str, result: str, written: Mapping[Path, str], show_diff: bool, as_json: bool
) -> None:
    for path, text in written.items():
        if not path.exists() or path.read_bytes() != text.encode():
            write(path, text)
            note(f"wrote {path}")
    if as_json or written:
        return
    if show_diff:
        lines = difflib.unified_diff(
            source.splitlines(True), result.splitlines(True), str(recipe), f"{recipe}, changed"
        )
        click.echo(
            "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines),
            nl=False,
        )
    else:
        click.echo(result.encode(), nl=False)  # as bytes: no line ending is changed
