"""The parts of pages that show memory-on-paper.json, without what the benchmark itself needs."""

from __future__ import annotations

from typing import Any

from benchmarks import provenance


def printed(results: dict[str, Any]) -> list[str]:
    """The example of the page of the command."""
    example = results["example"]
    lines = [f"$ {example['command']}", *example["prints"].splitlines()]
    return ["", *(f"    {line}".rstrip() for line in lines), "", provenance.describe(results)]


def render(results: dict[str, Any]) -> str:
    lines = ["# Memory on paper", "", provenance.describe(results), "", *table(results)]
    return "\n".join(lines) + "\n"


def table(results: dict[str, Any]) -> list[str]:
    lines = [
        "| recipe | model | on paper | same count, real tensors | PyTorch's allocator |",
        "|---|---|---:|---:|---:|",
    ]
    for cell in results["cells"]:
        others = [
            f"{cell[name] / 2**20:.1f} MiB ({cell['fake'] / cell[name] - 1:+.2%})" for name in ("real", "allocator")
        ]
        lines.append(f"| {cell['name']} | {cell['family']} | {cell['fake'] / 2**20:.1f} MiB | {' | '.join(others)} |")
    return [*lines, "", provenance.describe(results)]


def models(results: dict[str, Any]) -> list[str]:
    """The recipe of the example with other models and losses."""
    names = list(results["models"][0]["peaks"])
    lines = ["| model | OTR | " + " | ".join(names[1:]) + " |", "|---|" + "---:|" * len(names)]
    for row in results["models"]:
        lines.append(
            f"| {row['model']} | " + " | ".join(f"{row['peaks'][name] / 2**30:.1f} GiB" for name in names) + " |"
        )
    return [*lines, "", provenance.describe(results)]
