"""`otr check`: whether a recipe trains as it reads, and what it would do besides."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otr_plugin.command.console import CANNOT_TELL, GOOD, HOST_NAMES, PROBLEM, UNREADABLE, Failure, emit, table, verb

if TYPE_CHECKING:
    from otr_plugin.command.gpus import GPU
    from otr_plugin.command.recipes import RecipeHost
    from otr_plugin.command.strangers import Finding
    from otr_plugin.hosts.recipe_text import RecipeText


@dataclass
class Report:
    """What is found about one recipe."""

    recipe: str
    host: str | None = None
    settings: dict[str, Any] | None = None  # None: it does not train with OTR
    problems: list[dict[str, Any]] = field(default_factory=list)  # line and message
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    data: dict[str, Any] | None = None  # figures of some rows, at the level data
    error: str | None = None  # why nothing could be found
    exit_code: int = GOOD


@verb(short_help="Check that RECIPE trains as it reads; list what it would run.")
@click.argument("recipes", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RECIPE...")
@click.option(
    "--level",
    type=click.Choice(["static", "host", "data"]),
    default="static",
    show_default=True,
    help="Read the text; or use the host's own parser too, which imports what the recipe names; or let the host also "
    "tokenise some rows.",
)
@click.option("--format", "style", type=click.Choice(["text", "github", "json"]), default="text", show_default=True)
@click.option("--strict", is_flag=True, help="Warnings are problems.")
@click.option("--host", type=click.Choice(HOST_NAMES), help="The host, if the recipes' keys do not tell.")
@click.option("--gpu", "gpu_name", metavar="NAME", help="Check for this GPU, such as rtx4090, whatever is here.")
def command(
    recipes: tuple[Path, ...],
    level: str,
    style: str,
    strict: bool,
    host: str | None,
    gpu_name: str | None,
    as_json: bool,
) -> int:
    """Check that RECIPE trains as it reads, and list what it would fetch, run or reveal.

    The static level only reads: nothing that a recipe names is imported or run.
    """
    from otr_plugin.command.gpus import gpu_named

    gpu = None if gpu_name is None else gpu_named(gpu_name)
    reports = [_report(path, level, strict, host, gpu) for path in recipes]
    code = next(
        (code for code in (UNREADABLE, PROBLEM, CANNOT_TELL) if any(r.exit_code == code for r in reports)), GOOD
    )
    if as_json or style == "json":
        emit({"recipes": [asdict(report) for report in reports], "exit_code": code})
    else:
        for report in reports:
            (_show_on_github if style == "github" else _show)(report)
    return code


def _report(path: Path, level: str, strict: bool, chosen: str | None, gpu: GPU | None) -> Report:
    from otr_plugin.command import files, host_level, on_gpu, recipes, strangers
    from otr_plugin.hosts.recipes import OtherLossError, RecipeError, conflicts

    report = Report(str(path))
    try:
        source, text = files.read(path)
        found = strangers.warnings(text, source, Path())
        report.warnings = [each for each in found if not each.is_notable_only]
        report.notes = [each for each in found if each.is_notable_only]
        host = recipes.host_of(text, path, chosen)
        report.host = host.name
        try:
            config = host.read(text)
            report.settings = None if config is None else config.model_dump()
        except OtherLossError as error:
            report.problems = sorted(
                (_problem(each, text) for each in error.conflicts), key=lambda each: each["line"] or 0
            )
        except RecipeError as error:
            others = []
            if host.is_named_in(text):
                others = conflicts(recipes.recipe_of(text), host.other_losses, text, host.own_objectives)
            report.problems = [_problem(each, text) for each in (*error.problems, *others)]
        if level != "static" and not report.problems:
            found_by_host = host_level.problems_of(host, recipes.recipe_of(text), path, gpu)
            report.problems = [_problem(each, text) for each in found_by_host]
        if level == "data" and not report.problems:
            _read_data(report, host, text, path)
        if gpu is not None:
            report.problems += [_problem(each, text) for each in on_gpu.problems(recipes.recipe_of(text), gpu)]
    except Failure as failure:
        report.error, report.exit_code = failure.message, failure.exit_code
        return report
    report.exit_code = PROBLEM if report.problems or (strict and report.warnings) else GOOD
    return report


def _read_data(report: Report, host: RecipeHost, text: RecipeText, path: Path) -> None:
    from otr_plugin.command import data_level, recipes

    data = data_level.data_of(host, recipes.recipe_of(text), path)
    report.data = asdict(data) | {"share": round(data.share, 4)}
    report.problems += [_problem(each, text) for each in data_level.problems(data)]
    report.warnings += data_level.warnings(data, report.settings, text)


def _problem(message: str, text: RecipeText) -> dict[str, Any]:
    """The line and the rest of a message that begins with its place, or with a key."""
    place = re.match(rf"{re.escape(text.name)}:(\d+): ", message)
    if place:
        return {"line": int(place[1]), "message": message[place.end() :]}
    key = re.match(r"`([^`:\s]+): ", message)
    return {"line": text.line_of(key[1]) if key else None, "message": message}


def _place(path: str, line: int | None) -> str:
    return path if line is None else f"{path}:{line}"


def _show(report: Report) -> None:
    from otr_plugin.command.recipes import HOSTS as KNOWN

    if report.error is not None:
        click.echo(f"error: {report.error}")
    elif report.host is not None:
        title = KNOWN[report.host].title
        if report.problems:
            count = len(report.problems)
            click.echo(f"{report.recipe}: {title}, {count} problem{'s' if count > 1 else ''}")
            for problem in report.problems:
                click.echo(f"  {_place(report.recipe, problem['line'])}: {problem['message']}")
        elif report.settings is None:
            click.echo(f"{report.recipe}: {title}, trains without OTR. `otr add {report.recipe}` adds it")
        else:
            click.echo(f"{report.recipe}: {title}, trains with OTR: {_settings(report.settings)}")
    if report.data is not None:
        click.echo()
        table(f"Rows of {report.recipe}", ["what", "found"], _data_rows(report.data))
    found = [*report.warnings, *report.notes]
    if found:
        rows = [
            [str(each.line), each.kind, each.what, each.advice] for each in sorted(found, key=lambda each: each.line)
        ]
        click.echo()
        table(f"Read before you run {report.recipe}", ["line", "it", "found", "what to do"], rows)


def _data_rows(data: dict[str, Any]) -> list[list[str]]:
    shown = {
        "rows": f"{data['rows']:,}",
        "rows that the host dropped": data["rows_dropped"],
        f"rows of the greatest length, {data['limit']}": data["rows_at_the_limit"],
        "rows without a trained token": data["rows_without_trained_token"],
        "tokens": f"{data['tokens']:,}",
        "trained tokens": f"{data['trained_tokens']:,} ({data['share']:.0%})",
        "trained tokens that are new to the model": data["new_labels"],
    }
    return [[name, str(value)] for name, value in shown.items() if value is not None]


def _settings(settings: dict[str, Any]) -> str:
    from otr_plugin.config import OTRConfig

    changed = {name: value for name, value in settings.items() if value != OTRConfig.model_fields[name].default}
    shown = {"objective": settings["objective"], **changed}
    return ", ".join(f"{name} {json.dumps(value).strip(chr(34))}" for name, value in shown.items())


def _show_on_github(report: Report) -> None:
    """Workflow commands, which GitHub shows beside the lines of a pull request."""
    if report.error is not None:
        _annotate("error", report.recipe, None, report.error)
    for problem in report.problems:
        _annotate("error", report.recipe, problem["line"], problem["message"])
    for warning in report.warnings:
        _annotate("warning", report.recipe, warning.line, f"{warning.kind}: {warning.what}: {warning.advice}")


def _annotate(kind: str, path: str, line: int | None, message: str) -> None:
    properties = {"file": path, **({} if line is None else {"line": str(line)}), "title": "otr"}
    listed = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    click.echo(f"::{kind} {listed}::{_escaped(message)}")


def _escaped(text: str, more: str = "") -> str:
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
