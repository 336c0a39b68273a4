"""`otr compare`: runs side by side, and whether their figures may be compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from otr_plugin.command.console import emit, note, table, verb

if TYPE_CHECKING:
    from otr_plugin.command.comparison.comparison import Comparison


@verb(short_help="Compare RUNs: settings, NLL at equal tokens, time, memory.")
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN RUN...")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with curves, in one file.")
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Write the curves as a picture.")
@click.option("--md", "as_markdown", is_flag=True, help="Print Markdown.")
def command(runs: tuple[Path, ...], html: Path | None, png: Path | None, as_markdown: bool, as_json: bool) -> int:
    """Compare the first RUN with the others. A RUN is the output folder of a run of any host, finished or not.

    Shows what differs in the settings, whether model, data, seed, tokens and versions are the same, the NLL at equal
    tokens, OTR's metrics, time and memory. The figures are from the files that the hosts and the plugin wrote there.
    """
    from otr_plugin.command.comparison import comparison, show
    from otr_plugin.command.files import write

    if len(runs) < 2:
        raise click.UsageError("name two or more output folders")
    if as_markdown and as_json:
        raise click.UsageError("choose one of --md and --json")
    found = comparison.compare(runs)
    if png is not None:
        from otr_plugin.command.comparison import picture

        write(png, picture.drawn(found))
        note(f"wrote {png}")
    if html is not None:
        from otr_plugin.command.comparison import page

        write(html, page.written(found))
        note(f"wrote {html}")
    if as_json:
        emit(found.as_json())
    elif as_markdown:
        click.echo(show.markdown(found), nl=False)
    else:
        _print(found)
    return found.exit_code


def _print(found: Comparison) -> None:
    from otr_plugin.command.comparison import show

    click.echo(show.verdict(found))
    for each in show.tables(found):
        click.echo()
        table(each.title, each.columns, each.rows)
    for line in ["", *(f"- {each}" for each in found.notes)] if found.notes else []:
        click.echo(line)
