"""What OTR costs and what it does, measured beside what else there is: python -m benchmarks --help."""

from __future__ import annotations

import argparse

from benchmarks import axolotl, loss


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(required=True)
    loss.add_to(commands.add_parser("loss", help="the loss on this machine's CPU: time and peak memory"))
    axolotl.add_to(commands.add_parser("axolotl", help="a step in the real Axolotl, with the plugin and without"))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
