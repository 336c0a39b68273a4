"""`otr add`: a recipe with OTR from one without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from otr_plugin.command.console import GOOD, HOST_NAMES, PROBLEM, UNREADABLE, Failure, emit, note, verb


@verb()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--diff", "show_diff", is_flag=True, help="Print what would change, as a diff; write nothing.")
@click.option("-i", "--in-place", is_flag=True, help="Write the result into RECIPE.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the result into FILE.")
@click.option(
    "--twin", is_flag=True, help="Also write the recipe without OTR, with another output_dir, beside the result."
)
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of OTR, such as nll_weight=0.1."
)
@click.option("--host", type=click.Choice(HOST_NAMES), help="The host, if the recipe's keys do not tell.")
def command(
    recipe: Path,
    show_diff: bool,
    in_place: bool,
    output: Path | None,
    twin: bool,
    assignments: tuple[str, ...],
    host: str | None,
    as_json: bool,
) -> int:
    """Add OTR to RECIPE, and print the result.

    Losses that would take OTR's place are switched off and named. All other lines stay as they are, and `otr remove`
    restores the recipe byte for byte.
    """
    from otr_plugin.command import conversion, files, recipes
    from otr_plugin.command.output import deliver, target_of

    target = target_of(recipe, show_diff, in_place, output)
    if twin and target is None:
        raise click.UsageError("--twin writes a file beside the result: add --in-place or -o FILE")
    source, text = files.read(recipe)
    chosen = recipes.host_of(text, recipe, host)
    made = conversion.add(source, text, chosen, _settings(assignments))
    written = {}
    if twin and target is not None:
        written[_twin_path(target)] = _twin(made.plain, recipe, target)
    if target is not None:
        written[target] = made.text
    if as_json:
        emit(
            {
                "recipe": str(recipe),
                "host": chosen.name,
                "changed": made.text != source,
                "switched_off": [vars(each) for each in made.off],
                "settings": made.config.model_dump(),
                "written": [str(path) for path in written],
                "text": made.text,
            }
        )
    for each in made.off:
        name, found, line = each.name, each.found, each.line
        if each.becomes is None:
            note(f"switched off `{name}` ({found}) of line {line}: with it, the run would not train with OTR")
        else:
            note(f"switched off `{name}` ({found}) of line {line}: it is `{each.becomes}` of this package now")
    if any(each.becomes for each in made.off):
        note("the recipe trains its own objective as before; --set objective=otr trains One-Token Rollout in its place")
    if made.text == source:
        note(f"{recipe} has OTR already")
    deliver(recipe, source, made.text, written, show_diff, as_json)
    return GOOD


def _settings(assignments: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    settings = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"--set {assignment}: write KEY=VALUE, such as nll_weight=0.1")
        try:
            settings[name.strip().replace("-", "_")] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.UsageError(f"--set {assignment}: the value is not YAML") from None
    return settings


def _twin_path(target: Path) -> Path:
    return target.with_name(f"{target.stem.removesuffix('-otr')}-sft{target.suffix}")


def _twin(plain: str, recipe: Path, target: Path) -> str:
    """The recipe without OTR, which writes to another folder."""
    from otr_plugin.command.edits import CannotEditError, with_value

    path = _twin_path(target)
    try:
        text = with_value(plain, "output_dir", lambda folder: f"{str(folder).rstrip('/').removesuffix('-otr')}-sft")
    except CannotEditError as error:
        raise Failure(f"{recipe}: {error}: both runs would write to one folder: add an `output_dir`", PROBLEM) from None
    if path.exists() and path.read_bytes() != text.encode():
        raise Failure(f"{path}: exists, and the twin would replace it: move it away, or choose another -o", UNREADABLE)
    return text
