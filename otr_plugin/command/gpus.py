"""GPUs by name: their memory, and their compute capability, which decides what runs on them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from otr_plugin.command.console import UNREADABLE, Failure


@dataclass(frozen=True)
class GPU:
    name: str
    title: str
    gib: float  # of memory, as nvidia-smi states it, rounded down; with ECC where that is the default
    capability: tuple[int, int]

    @property
    def sm(self) -> str:
        """The compute capability as compilers spell it: sm_89."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @property
    def bf16(self) -> bool:
        """Whether the card computes in bfloat16: from Ampere on."""
        return self.capability >= (8, 0)


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("p100", "Tesla P100", 16, (6, 0)),
        GPU("v100", "Tesla V100 16GB", 16, (7, 0)),
        GPU("v100-32", "Tesla V100 32GB", 32, (7, 0)),
        GPU("t4", "Tesla T4", 15, (7, 5)),
        GPU("rtx2080ti", "GeForce RTX 2080 Ti", 11, (7, 5)),
        GPU("a100-40", "A100 40GB", 40, (8, 0)),
        GPU("a100-80", "A100 80GB", 80, (8, 0)),
        GPU("a10", "A10", 22.5, (8, 6)),
        GPU("a10g", "A10G", 22.5, (8, 6)),
        GPU("a40", "A40", 45, (8, 6)),
        GPU("a6000", "RTX A6000", 48, (8, 6)),
        GPU("rtx3060", "GeForce RTX 3060", 12, (8, 6)),
        GPU("rtx3080", "GeForce RTX 3080", 10, (8, 6)),
        GPU("rtx3090", "GeForce RTX 3090", 24, (8, 6)),
        GPU("l4", "L4", 22.5, (8, 9)),
        GPU("l40s", "L40S", 45, (8, 9)),
        GPU("rtx6000ada", "RTX 6000 Ada", 45, (8, 9)),
        GPU("rtx4060ti", "GeForce RTX 4060 Ti 16GB", 16, (8, 9)),
        GPU("rtx4070", "GeForce RTX 4070", 12, (8, 9)),
        GPU("rtx4070ti", "GeForce RTX 4070 Ti", 12, (8, 9)),
        GPU("rtx4080", "GeForce RTX 4080", 16, (8, 9)),
        GPU("rtx4090", "GeForce RTX 4090", 24, (8, 9)),
        GPU("h100", "H100 80GB", 79.5, (9, 0)),
        GPU("gh200", "GH200 96GB", 95, (9, 0)),
        GPU("h200", "H200", 140, (9, 0)),
        GPU("b200", "B200", 179, (10, 0)),
        GPU("rtx5070ti", "GeForce RTX 5070 Ti", 16, (12, 0)),
        GPU("rtx5080", "GeForce RTX 5080", 16, (12, 0)),
        GPU("rtx5090", "GeForce RTX 5090", 31.5, (12, 0)),
        GPU("rtxpro6000", "RTX PRO 6000 Blackwell", 95.5, (12, 0)),
    )
}


def gpu_named(name: str) -> GPU:
    """The GPU, whatever the case and the separators: `RTX 4090`, `rtx-4090`, `A100-80`. Raises Failure if unknown."""
    plain = _plain(name).removeprefix("nvidia")
    for gpu in GPUS.values():
        if plain in (_plain(gpu.name), _plain(gpu.title)):
            return gpu
    near = difflib.get_close_matches(name.lower(), GPUS, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise Failure(f"--gpu {name}: unknown GPU; {meant}known are {', '.join(GPUS)}", UNREADABLE)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
