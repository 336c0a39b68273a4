"""Trains with transformers' Trainer on two ranks that share every sequence: each has some of its positions.

`torchrun --nproc_per_node=2 -m tests.distributed.sequence_ranks FOLDER` does so on CPUs; what it changes for that is in
benchmarks/hosts. PyTorch's context parallelism gets another attention, because its own needs a GPU. DeepSpeed's Ulysses
runs as it is.
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch
from accelerate.parallelism_config import DeepSpeedSequenceParallelConfig, ParallelismConfig
from transformers import TrainingArguments

from benchmarks.hosts import attention_over_ranks
from benchmarks.hosts.engines_on_cpu import FSDP2, ZERO3, patch_accelerate
from otr_plugin import OTRConfig, attach
from tests.distributed.trainer_engines import OPTIMIZER, InOrder
from tests.model.families import batch, tiny

STEPS, MICRO_BATCHES, ROWS, LENGTH, SEED = 3, 2, 2, 12, 3
CONFIG = OTRConfig(samples=16)
ENGINES = ("context parallelism", "Ulysses") if importlib.util.find_spec("deepspeed") else ("context parallelism",)


def model():
    made = tiny("llama")
    made.set_attn_implementation("sdpa")
    return made


def rows():
    """The last rows train only the first two or the last two positions, so that one rank has no token of them."""
    made = batch(rows=STEPS * MICRO_BATCHES * ROWS, length=LENGTH, seed=5)
    made["labels"][-4:-2, 2:] = -100
    made["labels"][-2:, :-2] = -100
    made["labels"][-4:-2, 1] = made["input_ids"][-4:-2, 1]
    made["labels"][-2:, -1] = made["input_ids"][-2:, -1]
    positions = torch.arange(LENGTH).expand(len(made["labels"]), -1)
    return [{n: v[i] for n, v in (made | {"position_ids": positions}).items()} for i in range(len(positions))]


def parallelism(engine):
    if engine == "context parallelism":
        return ParallelismConfig(cp_size=2)
    handler = DeepSpeedSequenceParallelConfig(sp_attn_implementation="sdpa", sp_seq_length_is_variable=True)
    return ParallelismConfig(sp_size=2, sp_handler=handler)


def train(engine, folder):
    """The final model and the log are saved in the folder, and the positions that the model saw on each rank."""
    os.environ.update(FSDP2 if engine == "context parallelism" else {})
    trained, seen = model(), []
    attach(trained, CONFIG)
    trainer = InOrder(
        model=trained,
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=ROWS,
            per_device_eval_batch_size=ROWS,
            gradient_accumulation_steps=MICRO_BATCHES,
            parallelism_config=parallelism(engine),
            deepspeed=ZERO3 if engine == "Ulysses" else None,
            logging_steps=1,
            lr_scheduler_type="constant",
            max_grad_norm=0,
            save_strategy="no",
            seed=SEED,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows(),
        eval_dataset=rows(),
        optimizer_cls_and_kwargs=OPTIMIZER,
    )
    trained.register_forward_pre_hook(
        lambda module, _, arguments: seen.append(arguments["position_ids"]) if module.training else None,
        with_kwargs=True,
    )
    trainer.train()
    trainer.evaluate()
    trainer.save_model(str(folder / "final"))
    trainer.save_state()
    torch.save(seen, folder / f"positions-{torch.distributed.get_rank()}")
    for name in FSDP2:
        os.environ.pop(name, None)


def main(folder):
    patch_accelerate()
    with attention_over_ranks.in_place_of("sdpa"):
        train("context parallelism", folder / "context parallelism")
    if "Ulysses" in ENGINES:
        train("Ulysses", folder / "Ulysses")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
