"""The Markdown card of a shared run, from its run.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COMMANDS = {
    "axolotl": "axolotl train {}",
    "llamafactory": "llamafactory-cli train {}",
    "trl": "trl sft --config {}",
    "swift": "swift sft {}",
}
METHOD = "One-Token Rollout ([arXiv 2509.26313](https://arxiv.org/abs/2509.26313)), by otr-plugin"
FIGURES = ("loss", "eval_loss", "otr/objective", "otr/reward", "otr/hit_rate", "otr/unsampled", "otr/accuracy")


def card(described: Mapping[str, Any], host: str, has_twin: bool) -> str:
    run, train, meta = (described[name] for name in ("run_info", "train_info", "meta_info"))
    method = "" if run["otr_config"] is None else f" with {METHOD}"
    lines = [f"# {_cell(run['experiment_name'])}", "", f"A run of {host}{method}.", ""]
    lines += _table(["", ""], _facts(run, train, meta, host))
    last = next((each for each in reversed(train["metrics"]) if isinstance(each, dict) and "loss" in each), {})
    evaluated = next(
        (each for each in reversed(train["metrics"]) if isinstance(each, dict) and "eval_loss" in each), {}
    )
    figures = [[name, _figure(value)] for name in FIGURES if (value := (last | evaluated).get(name)) is not None]
    if figures:
        lines += ["", "## Figures at the end", "", *_table(["figure", "value"], figures)]
    sources = [each for name in ("model_info", "dataset_info", "other_info") for each in meta[name].values()]
    if sources:
        rows = [[each["key"], each["name"], each["sha"] or _hash(each["files"])] for each in sources]
        lines += ["", "## Models and data", "", *_table(["key", "name", "commit, or SHA-256 of its files"], rows)]
    if described["placeholders"]:
        rows = [[name, ", ".join(keys)] for name, keys in described["placeholders"].items()]
        lines += [
            "",
            "## Placeholders",
            "",
            "Paths of the author's machine. Put what the run reads there, or a link; the run writes the rest.",
        ]
        lines += ["", *_table(["placeholder", "where the recipe has it"], rows)]
    lines += ["", "## Run it again", ""]
    lines += [f"    {COMMANDS[run['host']].format('recipe.yaml')}", ""]
    if has_twin:
        lines += ["`recipe-without-otr.yaml` is the same run with the plain loss. It needs no otr-plugin.", ""]
    lines += ["`otr share --verify .` compares the files here, and the models and data that are on this machine, with"]
    lines += [
        "their hashes. `sha256sum -c SHA256SUMS` compares the files without the command. `run.json` has every figure."
    ]
    for title, items in (("Taken out", described["secrets_removed_from"]), ("Missing", described["missing"])):
        if items:
            lines += ["", f"## {title}", "", *(f"- {_cell(each)}" for each in items)]
    return "\n".join(lines) + "\n"


def _facts(run: Mapping[str, Any], train: Mapping[str, Any], meta: Mapping[str, Any], host: str) -> list[list[str]]:
    system, packages = meta["system_info"], meta["package_info"]
    settings = run["otr_config"] or {}
    memory = train["accelerator_memory_max"] or train["process_memory_max"]
    facts = {
        "host": host,
        "status": train["status"],
        "settings of OTR": ", ".join(f"{name} {value}" for name, value in settings.items() if value is not None),
        "seeds": ", ".join(f"{name} {value}" for name, value in run["seeds"].items() if value is not None),
        "steps": train["steps"],
        "resumed at step": run["resumed_at_step"] or None,
        "time": None if train["train_time"] is None else f"{train['train_time']:,.1f} s",
        "peak memory of the first process": None if not memory else f"{memory / 2**30:.2f} GiB",
        "trained parameters": _of(train["num_trainable_params"], train["num_total_params"]),
        "hardware": system.get("accelerator") or system.get("processor"),
        "processes": run["processes"],
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "chat template": meta["tokenizer_info"].get("chat_template_sha256"),
    }
    return [[name, str(value)] for name, value in facts.items() if value not in (None, "")]


def _of(part: Any, whole: Any) -> str | None:
    return f"{part:,} of {whole:,}" if isinstance(part, int) and isinstance(whole, int) else None


def _hash(files: Mapping[str, Any]) -> str:
    if len(files) == 1:
        return str(next(iter(files.values()))["sha256"])
    return f"{len(files)} files, in run.json" if files else "unknown"


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _table(columns: list[str], rows: list[list[Any]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([_cell(each) for each in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(value: Any) -> str:
    """Text as Markdown shows it: no bar ends the cell, and no HTML begins."""
    text = str(value).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
    return " ".join(text.split())
