"""`otr share`: a finished run as files that others can read and check."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from otr_plugin.command.console import (
    CANNOT_TELL,
    GOOD,
    HOST_NAMES,
    PROBLEM,
    UNREADABLE,
    Failure,
    emit,
    note,
    table,
    verb,
)


@verb(short_help="Write the recipe, versions, hashes and figures of RUN for others.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="The folder to write.")
@click.option("--recipe", type=click.Path(path_type=Path), metavar="FILE", help="The recipe, if RUN does not hold it.")
@click.option("--verify", is_flag=True, help="RUN is a folder that `otr share` wrote: compute its hashes again.")
@click.option("--host", type=click.Choice(HOST_NAMES), help="The host, if the recipe's keys do not tell.")
def command(run: Path, output: Path | None, recipe: Path | None, verify: bool, host: str | None, as_json: bool) -> int:
    """Write what RUN, the output folder of a run, was: for others to read, to run again, and to check.

    Secrets are taken out of the recipe, and paths of this machine replaced by placeholders. No weights are written.
    """
    if verify:
        if output or recipe or host:
            raise click.UsageError("--verify takes one folder, and no other option but --json")
        return _verify(run, as_json)
    if output is None:
        raise click.UsageError("name the folder to write: -o DIR")
    from otr_plugin.command import sharing

    _require_free(output, (*sharing.NAMES, sharing.SUMS))
    found = sharing.read_run(run, recipe, host)
    texts = sharing.documents(found)
    _write(output, texts)
    if as_json:
        written = [str(output / name) for name in texts]
        emit({"run": str(run), "host": found.host.name, "written": written, "missing": found.missing})
    for each in found.removed:
        note(f"took a secret out of `{each}`")
    for each in found.missing:
        note(f"missing: {each}")
    note(f"wrote {', '.join(texts)} in {output}. Read them before you publish them")
    return GOOD


def _require_free(output: Path, names: tuple[str, ...]) -> None:
    """An earlier `otr share` may be written over, and nothing else."""
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= set(names)):
        raise Failure(
            f"{output}: exists, and holds other files than those of `otr share`: choose another -o", UNREADABLE
        )


def _write(output: Path, texts: dict[str, str]) -> None:
    from otr_plugin.command.files import write

    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in output.iterdir():
            path.unlink()  # of an earlier `otr share`
    except OSError as error:
        raise Failure(f"{output}: cannot be written: {error.strerror}", UNREADABLE) from None
    for name, text in texts.items():
        write(output / name, text)


def _verify(folder: Path, as_json: bool) -> int:
    from otr_plugin.command.verification import DIFFERS, UNKNOWN, checks

    found = checks(folder, Path.cwd())
    states = {check.state for check in found}
    code = PROBLEM if DIFFERS in states else CANNOT_TELL if UNKNOWN in states else GOOD
    if as_json:
        emit({"shared": str(folder), "checks": [asdict(check) for check in found], "exit_code": code})
    else:
        table(f"Hashes of {folder}", ["file", "here", "note"], [[c.name, c.state, c.note] for c in found])
    return code
