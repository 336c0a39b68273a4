"""Trains with every engine for several ranks on two processes, and compares with one process.

A cell is an engine with its settings, a kind of head, and a case. Cells that are in the result file are not run again.
DeepSpeed is optional; without it, its rows are left out.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import json
import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.paths import RESULTS

NAME = "engines.json"
PACKAGES = ("otr-plugin", "torch", "transformers", "peft", "deepspeed")


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", action="append", metavar="PATTERN", help="cells such as 'FSDP2* | tied | *'")
    parser.add_argument("--again", action="store_true", help="run cells that the result file has already")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    prepare()
    from benchmarks.engines import cells, judge, training
    from benchmarks.engines.ranks import Ranks

    path = args.out / NAME
    results = json.loads(path.read_text())["cells"] if path.exists() else {}
    todo = [
        cell
        for cell in cells.cells()
        if (args.again or cell.name not in results)
        and any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in args.only or ["*"])
        and (cells.ENGINES[cell.engine].kind != "zero" or importlib.util.find_spec("deepspeed"))
    ]
    ranks = Ranks(training.run)
    bad = 0
    try:
        for number, cell in enumerate(todo, 1):
            started = time.monotonic()
            results[cell.name] = outcome = judge.judge(cell, ranks)
            good = outcome["result"] in judge.GOOD
            bad += not good
            told = outcome.get("message") or ", ".join(
                f"{name} {error:.0e}" for name, error in outcome["errors"].items()
            )
            print(
                f"{number}/{len(todo)} {cell.name}: {'' if good else '!! '}{outcome['result']} ({told[:300]}), "
                f"{time.monotonic() - started:.1f} s",
                flush=True,
            )
            if number % 50 == 0 or number == len(todo):
                _write(path, results, [one.name for one in cells.cells()])
    finally:
        ranks.close()
    print(f"{len(todo)} cells run, {bad} of them bad")
    if bad:
        raise SystemExit(1)


def prepare() -> None:
    """What has to be done before the ranks are forked: they inherit what is imported here."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    import torch

    torch.set_num_threads(1)
    from benchmarks.engines import models
    from benchmarks.hosts.engines_on_cpu import import_deepspeed

    import_deepspeed()
    for kind in models.OF_KIND:
        models.make(kind, "LoRA")  # imports PEFT and the models' modules
    logging.disable(logging.WARNING)


def _write(path: Path, results: dict[str, Any], order: list[str]) -> None:
    kept = {name: _short(results[name]) for name in order if name in results}
    content = provenance.collect(PACKAGES) | {"command": "python -m benchmarks engines", "cells": kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")  # a run that is interrupted leaves a whole file
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def _short(value: Any) -> Any:
    """Figures with two digits: the table shows no more."""
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    return float(f"{value:.1e}") if isinstance(value, float) else value
