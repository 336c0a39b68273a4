"""The README's tables, written again from the result files: python -m benchmarks readme."""

from __future__ import annotations

import argparse
import json
import re

from benchmarks.learning import report, store
from benchmarks.paths import ROOT
from benchmarks.performance import axolotl_step, loss
from benchmarks.quickstart import command as quickstart

RENDERERS = {"quickstart": quickstart, "loss-cpu": loss, "axolotl-cpu": axolotl_step, "learning": report}
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    page = ROOT / "README.md"
    page.write_text(with_figures(page.read_text()))


def with_figures(page: str) -> str:
    def render(block: re.Match[str]) -> str:
        path = ROOT / block[2]
        results = store.read(path) if path.suffix == ".jsonl" else json.loads(path.read_text())
        lines = RENDERERS[path.stem].readme_figures(results)
        return block[1] + "\n".join(lines) + "\n" + block[3]

    return BLOCK.sub(render, page)
