"""The generated parts of README.md and docs/: `python -m benchmarks readme` writes them again.

A generated part stands between two comments. The first names its source, and which rendering of it where there are
several:

    <!-- figures: benchmarks/results/learning.jsonl averages -->
    ...
    <!-- end of figures -->

Sources are result files or their folder, the settings (otr_plugin/config.py), the host adapters (the recipe keys that
they refuse), and recipes and runs (what the command `otr` prints for them).
Plots that a page of docs/ shows are copies of those in benchmarks/results/, because a site holds nothing outside its
folder.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.engines import page as engines
from benchmarks.faults import page as faults
from benchmarks.gallery import page as gallery
from benchmarks.gpu import kernels, on_paper
from benchmarks.hosts.features import page as features
from benchmarks.learning import plan, report, store, tables
from benchmarks.learning.study import Study
from benchmarks.paths import RESULTS, ROOT
from benchmarks.performance import axolotl_step, gradient_size, loss, memory_page, objectives, slices
from benchmarks.quickstart import command as quickstart
from benchmarks.soak import command as soak
from benchmarks.tour import page as tour
from otr_plugin import OTRConfig

DOCS = ROOT / "docs"
BLOCK = re.compile(r"(<!-- figures: (\S+)(?: (\S+))? -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    for page in pages():
        page.write_text(with_figures(page.read_text()))
    for plot in images():
        shutil.copyfile(RESULTS / plot.name, plot)


def images() -> list[Path]:
    """The pictures of the pages in docs/."""
    return sorted((DOCS / "images").iterdir())


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def with_figures(page: str) -> str:
    """The page with every generated part rendered from its source."""

    def render(block: re.Match[str]) -> str:
        path = ROOT / block[2]
        lines = RENDERERS[path.stem, block[3]](_read(path))
        return block[1] + "\n".join(lines) + "\n" + block[4]

    return BLOCK.sub(render, page)


def _read(path: Path) -> Any:
    """A result file's content; for a module or a folder of the package, its path."""
    if path.suffix == ".jsonl":
        return store.read(path)
    return json.loads(path.read_text()) if path.suffix == ".json" else path


# The study


def _of_study(rows: Callable[[Study], tables.Rows]) -> Callable[[list[dict[str, Any]]], list[str]]:
    """A renderer of one of the study's tables, for the size that was run."""

    def render(lines: list[dict[str, Any]]) -> list[str]:
        study = Study.of(lines, plan.SIZES["cpu"])
        assert study is not None
        return tables.table(rows(study))

    return render


# The loss


def _trainable_head(results: dict[str, Any]) -> list[str]:
    return _without_seconds([cell for cell in results["sizes"] if cell["trainable"]], results)


def _growth(results: dict[str, Any]) -> list[str]:
    return _without_seconds(results["growth"], results)


def _without_seconds(cells: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
    lines = loss.grid(cells, lambda figures: f"{figures['ratio']:.2f} ×, {figures['megabytes']:,.0f} MB")
    return [*lines, "", provenance.describe(results)]


# The settings


def _settings_table(_: Path) -> list[str]:
    lines = ["| setting | default | allowed |", "|---|---|---|"]
    for name, field in OTRConfig.model_fields.items():
        lines.append(f"| [`{name}`](#{name}) | `{_yaml(field.default)}` | {_allowed(name)} |")
    return lines


def _settings_spellings(_: Path) -> list[str]:
    """How a command line overrides each setting, by host."""
    lines = ["| setting | Axolotl | LLaMA-Factory | TRL | ms-swift |", "|---|---|---|---|---|"]
    for name, field in OTRConfig.model_fields.items():
        value = _yaml(field.default)
        spellings = (
            f"--otr.{name.replace('_', '-')} {value}",
            f"otr.{name}={value}",
            f"--otr.{name} {value}",
            f"OTR_{name.upper()}={value}",
        )
        lines.append(f"| `{name}` | " + " | ".join(f"`{spelling}`" for spelling in spellings) + " |")
    return lines


def _settings_sections(_: Path) -> list[str]:
    """What each setting does."""
    lines: list[str] = []
    for name, field in OTRConfig.model_fields.items():
        allowed = f"Default: `{_yaml(field.default)}`. Allowed: {_allowed(name)}."
        lines += [f"### {name}", "", str(field.description), "", allowed, ""]
    return lines[:-1]


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value)


def _allowed(name: str) -> str:
    schema = OTRConfig.model_json_schema()["properties"][name]
    return " or ".join(_allowed_by(part) for part in schema.get("anyOf", [schema]))


def _allowed_by(schema: dict[str, Any]) -> str:
    """A part of a JSON schema in words."""
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "null":
        return "`null`"
    words = [{"integer": "an integer", "number": "a number"}[schema["type"]]]
    for key, meaning in (
        ("minimum", "at least"),
        ("ge", "at least"),  # what pydantic writes for a bound within a union
        ("exclusiveMinimum", "greater than"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "less than"),
    ):
        if key in schema:
            words.append(f"{meaning} {schema[key]:g}")
    return words[0] + (" " + " and ".join(words[1:]) if words[1:] else "")


# The hosts


def _refused_keys(host: Path) -> list[str]:
    """The recipe keys with which a host would compute the loss elsewhere, from its adapter's tables."""
    lines = ["| key in the recipe | what to do |", "|---|---|"]
    for key, fix in refused_keys(host):
        lines.append(f"| `{key}` | {fix} |")
    return lines


def refused_keys(host: Path) -> Iterator[tuple[str, str]]:
    """(key, what to do about it), read from the source: a host's module cannot be imported without the host."""
    modules = sorted(host.glob("*.py")) if host.is_dir() else [host.with_suffix(".py")]
    for module in modules:
        for node in ast.parse(module.read_text()).body:
            value = getattr(node, "value", None)
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict):
                yield from _fixes(value)


def _fixes(table: ast.Dict) -> Iterator[tuple[str, str]]:
    """The items of a literal dict whose values say in words what to do."""
    try:
        items = ast.literal_eval(table).items()
    except ValueError:  # not a literal
        return
    for key, value in items:
        fix = value[-1] if isinstance(value, tuple) else value
        if isinstance(fix, str) and " " in fix:
            yield key, fix


# The command


def _printed_by(words: str) -> Callable[[Path], list[str]]:
    """A renderer of a call of `otr` with a recipe, and of what the call prints; the recipe's folder is left out."""

    def render(recipe: Path) -> list[str]:
        shown = _printed(words.format(recipe=recipe)).replace(f"{recipe.parent}/", "")
        return ["", *_indented(f"$ otr {words.format(recipe=recipe.name)}", shown), ""]

    return render


def _printed(words: str) -> str:
    from click.testing import CliRunner  # here: only the pages that are written again need it

    from otr_plugin.command.main import command

    return CliRunner(env={"COLUMNS": "110"}).invoke(command, words.split(), prog_name="otr").output


def _indented(*texts: str) -> list[str]:
    return [f"    {line}".rstrip() for text in texts for line in text.splitlines()]


def _shared(_: Path) -> list[str]:
    """`otr share` on a made-up run, the recipe that it writes, and `--verify` before and after a change of the data."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            _make_run()
            calls = ["share outputs/run -o shared", "share --verify shared"]
            lines = _indented(f"$ otr {calls[0]}", _printed(calls[0]), "$ cat shared/recipe.yaml")
            lines += _indented(Path("shared", "recipe.yaml").read_text())
            Path("data.jsonl").write_text('{"prompt": "6+6=", "completion": "13"}\n')
            lines += _indented(f"$ otr {calls[1]}", _printed(calls[1]))
        finally:
            os.chdir(before)
    return ["", *lines, ""]


def _make_run() -> None:
    """What a run of TRL leaves, as far as `otr share` reads it. Its model was on a disk that is gone."""
    from otr_plugin.hosts.run_record import RunRecord, remember

    Path("data.jsonl").write_text('{"prompt": "6+6=", "completion": "12"}\n')
    recipe = {
        "model_name_or_path": "/home/somebody/models/tuned",
        "datasets": [{"path": "json", "data_files": "data.jsonl"}],
        "learning_rate": 2e-05,
        "output_dir": "outputs/run",
        "hub_token": "hf_AbCdEfGhIjKlMnOpQrSt",
        "plugins": ["otr"],
        "otr": {"samples": 64},
    }
    remember("trl", recipe, "outputs/run")
    record = RunRecord("outputs/run", print)
    record.start(lambda: {"otr": OTRConfig(samples=64).model_dump(), "seeds": {"seed": 42}})
    record.finish(dict)
    Path("outputs/run/trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.5, "step": 10}]}))


RENDERERS: dict[tuple[str, str | None], Callable[[Any], list[str]]] = {
    ("quickstart", None): quickstart.readme_figures,
    ("learning", None): report.readme_figures,
    ("learning", "regimes"): _of_study(tables.minus_sft),
    ("learning", "averages"): _of_study(lambda study: tables.averages(study.at_sft_rate())),
    ("learning", "rates"): _of_study(tables.rate_sensitivity),
    ("loss-cpu", None): loss.readme_figures,
    ("loss-cpu", "trainable"): _trainable_head,
    ("loss-cpu", "growth"): _growth,
    ("axolotl-cpu", None): axolotl_step.readme_figures,
    ("gradient-size-cpu", None): gradient_size.readme_figures,
    ("config", "table"): _settings_table,
    ("config", "sections"): _settings_sections,
    ("config", "spellings"): _settings_spellings,
    ("axolotl", "refused"): _refused_keys,
    ("llamafactory", "refused"): _refused_keys,
    ("trl", "refused"): _refused_keys,
    ("swift", "refused"): _refused_keys,
    ("slices-cpu", None): slices.table,
    ("kernels", None): kernels.docs_table,
    ("on_paper", None): on_paper.docs_table,
    ("gallery", "table"): gallery.table,
    **{("gallery", name): gallery.facts(name) for name in gallery.gallery()},
    ("engines", "table"): engines.table,
    ("engines", "summary"): engines.summary,
    ("engines", "others"): engines.others,
    ("plain", "add"): _printed_by("add {recipe} --set nll_weight=0.1 --diff"),
    ("stranger", "check"): _printed_by("check {recipe}"),
    ("stranger", "github"): _printed_by("check {recipe} --format github"),
    ("old-gpu", None): _printed_by("check {recipe} --gpu t4"),
    ("main", "help"): _printed_by("--help"),
    ("memory-on-paper", "printed"): memory_page.printed,
    ("memory-on-paper", None): memory_page.table,
    ("memory-on-paper", "models"): memory_page.models,
    ("share", None): _shared,
    ("tour", "seconds"): tour.seconds,
    ("tour", "printed"): tour.printed,
    ("results", "objectives"): objectives.functions_of_hosts,
    ("results", "our-objectives"): objectives.our_objectives,
    ("results", "objective-runs"): objectives.runs_of_hosts,
    ("axolotl", "compare"): _printed_by("compare {recipe}/sft {recipe}/otr"),
    ("results", "soak"): soak.slopes_of,
    ("results", "soak-metrics"): soak.metrics_of,
    ("results", "features"): features.matrix,
    ("results", "counts"): features.counts,
    ("results", "messages"): features.messages,
    ("results", "kills"): faults.kills,
    ("results", "killed-recipes"): faults.recipes,
    ("results", "broken-checkpoints"): faults.broken_checkpoints,
    ("results", "signals"): faults.by_signal,
    ("results", "full-disk"): faults.disk,
    ("results", "short-memory"): faults.short_memory,
    ("results", "odd-data"): faults.data,
    ("results", "faults"): faults.sources,
}
