"""Writes the table of launch settings that the package reads, from the kept sweeps of `python -m benchmarks gpu`.

For each architecture, the sweep with the latest date. Without a kept sweep there is no table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.gpu import sweep
from benchmarks.paths import RESULTS
from otr_plugin.loss import tuned


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with the folders of the cards")
    parser.add_argument("--out", type=Path, default=tuned.TABLE, help="the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    table = table_of(args.results)
    if table:
        args.out.write_text(json.dumps(table, indent=1) + "\n")
        print(f"{args.out} has the settings for {', '.join(table)}.")
    else:
        args.out.unlink(missing_ok=True)
        print(f"{args.results} has no finished sweep, so all cards get the defaults.")


def table_of(results: Path) -> dict[str, Any]:
    """Settings by architecture, from the kept results of every card."""
    found = [json.loads(path.read_text()) for path in sorted(results.glob("gpu-*/where.json"))]
    table: dict[str, Any] = {}
    for kept in sorted(found, key=lambda one: str(one["provenance"]["date"])):
        best = sweep.best_settings(kept["cells"])
        if best is not None:
            table[kept["identity"]["architecture"]] = best
    return table
