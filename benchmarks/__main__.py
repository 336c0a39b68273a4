"""Measures what OTR costs and what it does, beside the alternatives: python -m benchmarks --help."""

from __future__ import annotations

import argparse

from benchmarks import figures
from benchmarks.engines import command as engines
from benchmarks.faults import command as faults
from benchmarks.gallery import command as gallery
from benchmarks.gpu import command as gpu
from benchmarks.gpu import kernels, tune
from benchmarks.hosts.features import command as features
from benchmarks.learning import command as learning
from benchmarks.performance import (
    axolotl_step,
    gradient_size,
    loss,
    memory_on_paper,
    objectives,
    objectives_picture,
    slices,
)
from benchmarks.quickstart import command as quickstart
from benchmarks.quickstart import pretrain
from benchmarks.soak import command as soak
from benchmarks.tour import command as tour

COMMANDS = {
    "loss": (loss, "time and peak memory of the loss on this machine's CPU"),
    "gpu": (gpu, "everything that only a GPU can tell, in 40 minutes; it can be resumed"),
    "kernels": (kernels, "what the Triton kernels take of a GPU, by the compilers; it needs no GPU"),
    "tune": (tune, "write the table of launch settings from the sweeps on GPUs that are kept"),
    "memory": (memory_on_paper, "how right `otr memory` is, on small recipes of every host; also the pages' examples"),
    "axolotl": (axolotl_step, "time and peak memory of a step in the real Axolotl, with and without the plugin"),
    "objectives": (objectives, "the objectives of the host that is installed here, beside ours"),
    "picture": (objectives_picture, "draw the weights of the objectives, for docs/objectives.md"),
    "gradient": (gradient_size, "the size of OTR's gradient beside that of SFT"),
    "features": (features, "which features of the hosts train with OTR as without; it can be resumed"),
    "faults": (faults, "kills the hosts' runs, fills their disk and takes their memory; it can be resumed"),
    "engines": (engines, "DDP, FSDP and ZeRO on two processes, compared with one; it can be resumed"),
    "gallery": (gallery, "what `otr memory` estimates for the recipes of example_configs; it can be resumed"),
    "slices": (slices, "memory and exchanges of one rank of tensor parallelism"),
    "quickstart": (quickstart, "a small model learns a new skill in the real Axolotl, by SFT and by OTR"),
    "tour": (tour, "records the commands of the tour in a terminal: otr add, check, memory, and a run of Axolotl"),
    "learning": (learning, "a study of when OTR helps: small models learn by SFT, DFT and OTR; it can be resumed"),
    "soak": (soak, "20,000 steps in a host, with OTR and without: do memory, step time or metrics drift?"),
    "pretrain": (pretrain, "pretrain the small model of the quickstart"),
    "readme": (figures, "write the README's tables again, from the result files"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(required=True)
    for name, (module, summary) in COMMANDS.items():
        module.add_to(commands.add_parser(name, help=summary, description=module.__doc__))
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
