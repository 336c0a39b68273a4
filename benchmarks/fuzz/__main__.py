"""Searches for recipes that a host reads otherwise than a person does.

    .nox/trl/bin/python -m benchmarks.fuzz trl --examples 2000

A host needs its own environment. With --keep, the result of a host without failures replaces the host's part of
benchmarks/results/fuzz.json. The exit status is 1 if a recipe was read otherwise; the smallest such recipes are
printed.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.fuzz.hosts import HOSTS
from benchmarks.fuzz.search import Checker, Findings, report, search
from benchmarks.paths import RESULTS

PACKAGES = {"axolotl": "axolotl", "llamafactory": "llamafactory", "trl": "trl", "swift": "ms-swift"}
PATH = RESULTS / "fuzz.json"


def result(host: str, number: int, findings: Findings) -> dict[str, Any]:
    """The part of the result file for one host."""
    made = provenance.collect([PACKAGES[host], "otr-plugin", "hypothesis", "transformers", "torch"])
    made["command"] = shlex.join(["python", "-m", "benchmarks.fuzz", *sys.argv[1:]])
    return made | {
        "seed": number,
        "examples": findings.examples,
        "failures": sum(map(len, findings.failures.values())),
        "seconds": round(findings.seconds),
        "by_mutation": {name: dict(sorted(counts.items())) for name, counts in sorted(findings.outcomes.items())},
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("host", choices=sorted(HOSTS))
    parser.add_argument("--examples", type=int, default=2000, help="recipes, or recipes in a batch with --minutes")
    parser.add_argument("--minutes", type=float, help="start batches of recipes for so long")
    parser.add_argument("--seed", type=int, help="repeat a search; by default a new one is drawn")
    parser.add_argument("--keep", action="store_true", help=f"write the result to {PATH.name}")
    args = parser.parse_args()
    number = secrets.randbelow(10**9) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory() as folder:
        checker = Checker(args.host, Path(folder))
        try:
            findings = search(checker, args.examples, number, args.minutes)
            part = result(args.host, number, findings)
            counts = f"{part['examples']} recipes, {part['failures']} failures, {part['seconds']} s"
            print(f"{args.host}: seed {number}, {counts}")
            for (mutations, problem), failed in findings.failures.items():
                print(f"{len(failed)} x {', '.join(mutations) or 'no mutation'}: {problem}", flush=True)
            failures = report(checker, findings)
        finally:
            checker.close()
    print(failures)
    if args.keep and not failures:
        kept = json.loads(PATH.read_text()) if PATH.exists() else {}
        kept[args.host] = part
        PATH.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
