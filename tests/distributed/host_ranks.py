"""What a host's launcher starts on every rank, for engines that need GPUs: torchrun host_ranks.py HOST ARGUMENTS.

It changes accelerate, and the attention of sequences that ranks share, as benchmarks/hosts describes. Then it runs the
host's own script, and prints what has sharded the model. Ranks exit after the script: plain TRL was seen to hang in
gloo's teardown.
"""

import importlib.util
import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from transformers import Trainer

from benchmarks.hosts import attention_over_ranks
from benchmarks.hosts.engines_on_cpu import FSDP2, ZERO3, patch_accelerate, shards
from tests.distributed.torchrun import ENV, TWO_RANKS

SCRIPTS = {"llamafactory": "llamafactory.launcher", "swift": "swift.cli.sft", "trl": "trl.scripts.sft"}
# The variables with which `accelerate launch` passes the settings of an accelerate YAML on.
SHARED = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}
CONTEXT = "PARALLELISM_CONFIG_CP_SIZE"
ENGINES = {
    "FSDP2": FSDP2,
    "ZeRO-3": {},  # it is in the recipe
    "context parallelism": FSDP2 | SHARED | {CONTEXT: "2"},
    "Ulysses": SHARED | {"PARALLELISM_CONFIG_SP_SIZE": "2", "PARALLELISM_CONFIG_SP_ATTN_IMPLEMENTATION": "sdpa"},
}
SHARDED_BY = {"FSDP2": "FSDP2", "context parallelism": "FSDP2", "ZeRO-3": "ZeRO-3", "Ulysses": "ZeRO-3"}
# Where ranks share sequences of 8 positions, those of each rank. PyTorch gives a rank one piece from the front and one
# from the back, because later positions attend to more of them.
PIECES = {"context parallelism": ([0, 1, 6, 7], [2, 3, 4, 5]), "Ulysses": (slice(0, 4), slice(4, 8))}
own = Trainer.training_step


def command(host, engine):
    """What a test calls, before the host's arguments, and the variables that it sets."""
    if SHARDED_BY[engine] == "ZeRO-3" and not importlib.util.find_spec("deepspeed"):
        pytest.skip("DeepSpeed is not in this environment; CONTRIBUTING.md describes how to install it")
    return (*TWO_RANKS, str(Path(__file__)), host), ENGINES[engine] | ENV


def settings(engine, folder):
    """The settings of the recipe."""
    if SHARDED_BY[engine] != "ZeRO-3":
        return {"use_cpu": False}
    (folder / "zero3.json").write_text(json.dumps(ZERO3))
    return {"use_cpu": False, "deepspeed": str(folder / "zero3.json")}


def training_step(self, model, *args, **kwargs):
    loss = own(self, model, *args, **kwargs)
    print(f"step {self.state.global_step + 1} trains a model sharded by {shards(model)}", flush=True)
    return loss


def main(host, *arguments):
    arguments = list(arguments)
    if host == "swift":  # whose command turns a recipe into options
        from swift.cli.main import parse_yaml_args

        parse_yaml_args(arguments)
    patch_accelerate()
    Trainer.training_step = training_step
    sys.argv = [host, *arguments]
    if CONTEXT in os.environ:
        with attention_over_ranks.in_place_of("sdpa"):
            runpy.run_module(SCRIPTS[host], run_name="__main__")
    else:
        runpy.run_module(SCRIPTS[host], run_name="__main__")
    if dist.is_initialized():
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
