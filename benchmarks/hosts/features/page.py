"""The tables of docs/features.md and docs/hosts.md, from the result files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.hosts.features.feature import ROWS
from benchmarks.hosts.features.twins import DIFFERS, FAILS, HOSTS_ERROR, NO_EFFECT, REFUSED, ROUNDED, SAME

COLUMNS = {
    "axolotl": "Axolotl",
    "llamafactory": "LLaMA-Factory",
    "trl": "TRL 1.16",
    "trl-1.9": "TRL 1.9",
    "swift": "ms-swift",
    "transformers": "Trainer",
}
# Why a host does not run a recipe: (a pattern in its error, the words in the table).
REASONS = (
    (
        re.compile(r"cuda|\bGPU|gpu\b|XPU|FlashAttention|flash.attn|not support.*\bcpu\b|CPU offload", re.IGNORECASE),
        "needs a GPU",
    ),
    (
        re.compile(r"No module named|install|ImportError|not found in.*environment|PackageNotFound|requires .*>="),
        "not installed",
    ),
)

# Cells that differ or fail, by column and feature, and why. A test compares them with the result files.
KNOWN = {
    ("trl-1.9", "scaled logits (Granite)"): "TRL 1.9's default head leaves out Granite's `logits_scaling`. OTR has the "
    "model's own loss, which TRL has with `loss_type: nll`.",
}


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The result files by column."""
    files = {name: folder / f"features-{name}.json" for name in COLUMNS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def word(cell: dict[str, Any] | None) -> str:
    """A cell in the table."""
    if cell is None:
        return ""
    result: str = cell["result"]
    if result == HOSTS_ERROR:
        return reason(cell["message"])
    words = {SAME: "same", ROUNDED: "same, rounded", DIFFERS: "**differs**", FAILS: "**fails**"}
    return words.get(result, result)


def reason(message: str) -> str:
    return next((words for pattern, words in REASONS if pattern.search(message)), "host's error")


def matrix(folder: Path) -> list[str]:
    """One table for each kind of feature: rows are features, columns are hosts."""
    files = results(folder)
    lines: list[str] = []
    for kind, names in ROWS.items():
        lines += [
            f"### {kind}",
            "",
            f"| | {' | '.join(COLUMNS[name] for name in files)} |",
            "|---" * (len(files) + 1) + "|",
        ]
        for name in names:
            cells = [word(file["cells"].get(name)) for file in files.values()]
            if any(cells):
                lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def counts(folder: Path) -> list[str]:
    """How many features of each host have which result."""
    lines = [
        "| | same digits | within rounding | refused | not run by the host here | differ or fail |",
        "|---|---|---|---|---|---|",
    ]
    for name, file in results(folder).items():
        numbers = [
            sum(cell["result"] in kinds for cell in file["cells"].values())
            for kinds in ((SAME,), (ROUNDED,), (REFUSED,), (HOSTS_ERROR, NO_EFFECT), (DIFFERS, FAILS))
        ]
        lines.append(f"| {COLUMNS[name]} | {' | '.join(map(str, numbers))} |")
    return lines


def messages(folder: Path) -> list[str]:
    """By host: what OTR refuses and what the host does not run, with the keys and the message."""
    lines: list[str] = []
    for name, file in results(folder).items():
        lines += [f"### {COLUMNS[name]}", "", "| feature | in the recipe | result |", "|---|---|---|"]
        lines += [f"| {feature} | {keys} | {told} |" for feature, keys, told in _unusual(name, file)]
        lines += ["", provenance.describe(file), ""]
    return lines[:-1]


def _unusual(name: str, file: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for feature, cell in file["cells"].items():
        if cell["result"] != SAME:
            told = (
                KNOWN.get((name, feature))
                or cell.get("message")
                or f"loss by {cell['loss']:.0e}, gradient norm by {cell['norm']:.0e}"
            )
            yield feature, _keys(cell["keys"]["recipe"]), f"{word(cell)}: {escaped(_first_sentences(told))}"


def _keys(recipe: dict[str, Any]) -> str:
    return "<br>".join(_code(f"{key}: {_value(value)}") for key, value in recipe.items())


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("{folder}/", "").replace("{before}", "EARLIER-RUN")


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def _first_sentences(message: str) -> str:
    """Without the first sentence of OTR's message about other losses, which is the same for each."""
    message = re.sub(r"^.*the run would not train with OTR\. ", "", message)
    return message if len(message) <= 220 else message[:220].rsplit(" ", 1)[0] + " …"


def escaped(text: str) -> str:
    """Plain text for a cell: code spans stay, and nothing else is Markdown."""
    parts = text.replace("|", "\\|").split("`")
    if len(parts) % 2 == 0:
        parts = [text.replace("`", "'").replace("|", "\\|")]
    return "`".join(re.sub(r"([<>*_\[\]])", r"\\\1", part) if i % 2 == 0 else part for i, part in enumerate(parts))
