"""Runs every feature of the installed hosts with OTR's `objective: sft` and without, and keeps which of them agree.

Each environment has its own hosts, so the command is run in each of them; `make features` does. A cell that is in the
result file is not run again, unless with --again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.hosts.features import hosts
from benchmarks.hosts.features.feature import FULL, KIND_OF, Feature
from benchmarks.hosts.features.host import Host
from benchmarks.hosts.features.twins import DIFFERS, FAILS, NO_EFFECT, Twins
from benchmarks.paths import RESULTS


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", action="append", choices=hosts.MODULES, help="default: all that are installed here")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a feature's name in the table; can be repeated"
    )
    parser.add_argument("--again", action="store_true", help="run cells that the result file has already")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--keep", type=Path, help="folder for recipes and outputs; default: a temporary one")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    unknown = sorted(set(args.only or ()) - set(KIND_OF))
    if unknown:
        raise SystemExit(f"No feature has the name {', '.join(unknown)}. The names are: {'; '.join(KIND_OF)}")
    for name in args.host or hosts.installed():
        file = hosts.result_name(name)
        if file is None:
            raise SystemExit(f"{name} is not installed in this environment at a version that the table has.")
        run_host(name, args.out / f"features-{file}.json", args.only, again=args.again, keep=args.keep)


def run_host(name: str, path: Path, only: list[str] | None, *, again: bool, keep: Path | None) -> None:
    """Runs what is missing in the result file at `path`, and writes the file after each cell."""
    host = hosts.of(name)
    results = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    cells: dict[str, Any] = results["cells"]
    todo = [
        feature for feature in host.features if again or cells.get(feature, {}).get("keys") != keys_of(host, feature)
    ]
    todo = [feature for feature in todo if only is None or feature in only]
    if not todo:
        print(f"{host.title}: all {len(cells)} cells are in {path.name}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep / name if keep else Path(temporary) / name
        if folder.exists():
            raise SystemExit(f"{folder} is there already: choose another folder for --keep.")
        folder.mkdir(parents=True)
        twins = Twins(name, host, host.driver(folder))
        try:
            todo = with_references(host, todo, cells)
            for number, feature in enumerate(todo, 1):
                started = time.monotonic()
                cell = twins.run(feature, cells.get(host.features[feature].on))
                seconds = time.monotonic() - started
                cells[feature] = {"keys": keys_of(host, feature)} | cell | {"seconds": round(seconds, 1)}
                told = cell.get("message") or f"loss {cell['loss']:.0e}, norm {cell['norm']:.0e}"
                mark = "!! " if cell["result"] in (DIFFERS, FAILS, NO_EFFECT) else ""
                print(
                    f"{host.title} {number}/{len(todo)} {feature}: {mark}{cell['result']} ({told}), {seconds:.0f} s",
                    flush=True,
                )
                _write(path, name, host, cells)
        finally:
            twins.close()


def with_references(host: Host, todo: list[str], cells: dict[str, Any]) -> list[str]:
    """The features to run, and before each the one that it is added to, if its digits are missing."""
    order: list[str] = []
    for feature in todo:
        beneath = host.features[feature].on
        if feature != FULL and beneath not in cells and beneath not in order:
            order += [part for part in with_references(host, [beneath], cells) if part not in order]
        if feature not in order:
            order.append(feature)
    return order


def keys_of(host: Host, feature: str) -> Any:
    """What the result file keeps of a feature; a cell whose keys have changed is run again."""
    own, default = asdict(host.features[feature]), asdict(Feature({}))
    kept = {"recipe": own.pop("keys")} | {key: value for key, value in own.items() if value != default[key]}
    return json.loads(json.dumps(kept))


def _write(path: Path, name: str, host: Host, cells: dict[str, Any]) -> None:
    kept = {name: cells[name] for name in KIND_OF if name in cells and name in host.features}
    results = provenance.collect((host.package, *host.others))
    # Whatever part of the table this process was told to run, the whole of it comes from the command without options.
    results |= {"command": f"python -m benchmarks features --host {name}", "title": host.title, "cells": kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")  # a run that is interrupted leaves a whole file
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)
