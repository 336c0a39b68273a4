"""Searches for uses of otr_loss and attach whose result is wrong.

    .nox/axolotl/bin/python -m benchmarks.fuzz_python --minutes 60

With --keep, a search without failures is written to benchmarks/results/fuzz-python.json. The exit status is 1 if
something was wrong; the cases are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import sys
import warnings

import torch

from benchmarks import provenance
from benchmarks.paths import RESULTS

PATH = RESULTS / "fuzz-python.json"
PACKAGES = ["otr-plugin", "torch", "triton", "transformers", "peft", "hypothesis", "numpy"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_python", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="start batches for so long")
    parser.add_argument("--seed", type=int, help="repeat a search; by default a new one is drawn")
    parser.add_argument("--keep", action="store_true", help=f"write the result to {PATH.name}")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
        sys.modules["fla"] = None  # type: ignore[assignment] # it replaces models by its own, which need a GPU
    from benchmarks.fuzz_python.search import search

    warnings.simplefilter("ignore")  # of numpy, in Triton's interpreter, and of PEFT
    number = secrets.randbelow(10**9) if args.seed is None else args.seed
    findings = search(number, args.minutes)
    made = provenance.collect(PACKAGES)
    made["command"] = shlex.join(["python", "-m", "benchmarks.fuzz_python", *sys.argv[1:]])
    result = made | {
        "seed": number,
        "seconds": round(findings.seconds),
        "examples": dict(findings.examples),
        "failures": len(findings.failures),
        "by_case": dict(sorted(findings.outcomes.items())),
    }
    print(f"seed {number}: {dict(findings.examples)}, {len(findings.failures)} failures, {findings.seconds:.0f} s")
    if args.keep and not findings.failures:
        PATH.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if findings.failures else 0


if __name__ == "__main__":
    sys.exit(main())
