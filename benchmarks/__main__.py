"""What OTR costs and what it does, measured beside what else there is: python -m benchmarks --help."""

from __future__ import annotations

import argparse

from benchmarks import figures
from benchmarks.learning import command as learning
from benchmarks.performance import axolotl_step, fit, gpu, loss
from benchmarks.quickstart import command as quickstart
from benchmarks.quickstart import pretrain

COMMANDS = {
    "loss": (loss, "the loss on this machine's CPU: time and peak memory"),
    "gpu": (gpu, "the loss on a GPU: time, memory, and what the rows kernel moves"),
    "fit": (fit, "the longest sequence that trains on a card of 8 to 24 GiB"),
    "axolotl": (axolotl_step, "a step in the real Axolotl, with the plugin and without"),
    "quickstart": (quickstart, "a small model learns a new skill in Axolotl, by SFT and by OTR"),
    "learning": (learning, "does OTR work? small models learn by SFT, DFT and OTR; a study that resumes"),
    "pretrain": (pretrain, "make that small model, from nothing"),
    "readme": (figures, "write the README's tables again, from the result files"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(required=True)
    for name, (module, what) in COMMANDS.items():
        module.add_to(commands.add_parser(name, help=what, description=module.__doc__))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
