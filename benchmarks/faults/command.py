"""Kills the hosts' runs at random moments, fills their disk, takes their memory and gives them odd data.

Each environment has its own hosts, so the command is run in each of them; `make faults` does. What is in the result
file is not run again, unless with --again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.faults import broken_checkpoint, full_disk, kills, memory, odd_data, signals
from benchmarks.faults.runs import Runs
from benchmarks.hosts.features import hosts
from benchmarks.hosts.features.feature import FULL
from benchmarks.paths import RESULTS

# The recipes that are killed: features of benchmarks/hosts/features that hold a state of their own.
KILLED = (
    FULL,
    "LoRA with dropout",
    "gradient accumulation",
    "packing",
    "streaming",
    "grouped by length",
    "evaluation",
)


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", action="append", choices=hosts.MODULES, help="default: all that are installed here")
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument("--only", action="append", metavar="NAME", help="a recipe's or a fault's name; can be repeated")
    parser.add_argument("--kills", type=int, default=50, help="of the first recipe with OTR; others get a tenth")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--again", action="store_true", help="run what the result file has already")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    for name in args.host or installed():
        if name not in installed():
            raise SystemExit(f"{name} is not installed in this environment at the version that is tested.")
        run_host(name, args)


def installed() -> list[str]:
    """The hosts of this environment. TRL 1.9, which comes with Axolotl, cannot resume by its command."""
    return [name for name in hosts.MODULES if hosts.result_name(name) == name]


def run_host(name: str, args: argparse.Namespace) -> None:
    """Runs what is missing in the host's result file, and writes the file after each result."""
    path = args.out / f"faults-{name}.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    host, wanted = hosts.of(name), args.part or list(PARTS)
    todo = [(part, case) for part in wanted for case in PARTS[part].cases(name) if not args.only or case in args.only]
    todo = [(part, case) for part, case in todo if args.again or case not in results.get(part, {})]
    if not todo:
        print(f"{host.title}: everything is in {path.name}")
        return
    with tempfile.TemporaryDirectory() as folder, Runs(name, Path(folder)) as runs:
        for number, (part, case) in enumerate(todo, 1):
            started = time.monotonic()
            result = PARTS[part].run(runs, case, args)
            seconds = round(time.monotonic() - started)
            results = provenance.collect((host.package, *host.others)) | {
                "command": f"python -m benchmarks faults --host {name}",
                "title": host.title,
                **{key: results.get(key, {}) for key in PARTS},
            }
            results[part][case] = result | {"seconds": seconds}
            print(f"{host.title} {number}/{len(todo)} {part}, {case}: {json.dumps(result)}, {seconds} s", flush=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            part_file = path.with_suffix(".part")  # a run that is interrupted leaves a whole file
            part_file.write_text(json.dumps(results, indent=1) + "\n")
            part_file.replace(path)


class Part:
    """One kind of fault: its cases for a host, and a function that runs one of them."""

    def __init__(
        self,
        cases: Callable[[str], list[str]],
        run: Callable[[Runs, str, argparse.Namespace], dict[str, Any]],
    ) -> None:
        self.cases, self.run = cases, run


def _kill(runs: Runs, feature: str, args: argparse.Namespace) -> dict[str, Any]:
    few = max(1, args.kills // 10)
    many, plain = (args.kills, 2 * few) if feature == FULL else (few, few)
    return kills.cell(runs, feature, seed=args.seed, kills=many, plain_kills=plain)


def _killed_features(name: str) -> list[str]:
    return [feature for feature in KILLED if feature in hosts.of(name).features]


PARTS = {
    "kills": Part(_killed_features, _kill),
    "broken checkpoint": Part(lambda _: [broken_checkpoint.CASE], lambda runs, *_: broken_checkpoint.cell(runs)),
    "disk": Part(lambda _: [full_disk.CASE], lambda runs, _, args: full_disk.cell(runs, seed=args.seed)),
    "memory": Part(lambda _: list(memory.CASES), lambda runs, case, _: memory.cell(runs, case)),
    "signals": Part(lambda _: list(signals.CASES), lambda runs, case, args: signals.cell(runs, case, seed=args.seed)),
    "data": Part(odd_data.cases, lambda runs, case, _: odd_data.cell(runs, case)),
}
