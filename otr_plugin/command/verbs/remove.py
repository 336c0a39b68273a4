"""`otr remove`: a recipe without OTR from one with it."""

from __future__ import annotations

from pathlib import Path

import click

from otr_plugin.command.console import GOOD, HOST_NAMES, emit, note, verb


@verb()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--diff", "show_diff", is_flag=True, help="Print what would change, as a diff; write nothing.")
@click.option("-i", "--in-place", is_flag=True, help="Write the result into RECIPE.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the result into FILE.")
@click.option("--host", type=click.Choice(HOST_NAMES), help="The host, if the recipe's keys do not tell.")
def command(recipe: Path, show_diff: bool, in_place: bool, output: Path | None, host: str | None, as_json: bool) -> int:
    """Take OTR out of RECIPE, and print the result.

    What `otr add` switched off is restored: the result is the recipe that `otr add` was given, byte for byte.
    """
    from otr_plugin.command import conversion, files, recipes
    from otr_plugin.command.output import deliver, target_of

    target = target_of(recipe, show_diff, in_place, output)
    source, text = files.read(recipe)
    chosen = recipes.host_of(text, recipe, host)
    result = conversion.remove(source, text, chosen)
    written = {} if target is None else {target: result}
    if as_json:
        emit(
            {
                "recipe": str(recipe),
                "host": chosen.name,
                "changed": result != source,
                "written": [str(path) for path in written],
                "text": result,
            }
        )
    if result == source:
        note(f"{recipe} has no OTR")
    deliver(recipe, source, result, written, show_diff, as_json)
    return GOOD
