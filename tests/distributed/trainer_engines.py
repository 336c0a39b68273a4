"""Trains with plain transformers' Trainer on two ranks, with each engine: whole, and resumed from a checkpoint.

`torchrun --nproc_per_node=2 -m tests.distributed.trainer_engines FOLDER` does so on CPUs: it changes accelerate as
benchmarks/hosts/engines_on_cpu.py describes. `train("one process", FOLDER / "one process")` is for comparison.
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.hosts.engines_on_cpu import FSDP2, ZERO3
from otr_plugin import OTRConfig, attach
from tests.model.families import batch, tiny

STEPS, ROWS = 4, 2  # of one rank in one step
# An update is about as large as the weights, so that their rounding hides no error of it. Momentum is a state that a
# checkpoint has to hold.
OPTIMIZER = (torch.optim.SGD, {"lr": 10.0, "momentum": 0.9})
ENGINES = ("FSDP2", "ZeRO-3") if importlib.util.find_spec("deepspeed") else ("FSDP2",)


class InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


class AsBothRanks(InOrder):
    """One process whose micro-batches are those of the two ranks, with their draws."""

    def training_step(self, *args, **kwargs):
        handle = self.model._otr_handle
        handle.rank = 0 if handle.rank is None or self.last_step != self.state.global_step else 1
        self.last_step = self.state.global_step
        handle.start_step(self.state.global_step)
        return super().training_step(*args, **kwargs)

    last_step = -1


class IsEngine(TrainerCallback):
    def __init__(self, engine):
        self.engine = engine

    def on_step_end(self, args, state, control, model=None, **_):
        if self.engine == "FSDP2":
            assert isinstance(model, FSDPModule)
            assert all(isinstance(layer, FSDPModule) for layer in model.model.layers)
        if self.engine == "ZeRO-3":
            assert all(parameter.ds_status.name == "NOT_AVAILABLE" for parameter in model.parameters())


def train(engine, folder, resume_from=None):
    """Four steps; the final model and the log are saved in the folder."""
    one = engine == "one process"
    model = tiny("llama")  # before the arguments: with ZeRO-3 in them, transformers draws other weights, in shards
    attach(model, OTRConfig(samples=16))
    for name, value in FSDP2.items():
        if engine == "FSDP2":
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        gradient_accumulation_steps=2 if one else 1,
        deepspeed=ZERO3 if engine == "ZeRO-3" else None,
        use_cpu=one,
        logging_steps=1,
        lr_scheduler_type="constant",
        save_steps=2,
        seed=3,
        report_to="none",
        disable_tqdm=True,
    )
    rows = batch(rows=2 * ROWS * STEPS, seed=5)
    trainer = (AsBothRanks if one else InOrder)(
        model=model,
        args=arguments,
        train_dataset=[{name: values[i] for name, values in rows.items()} for i in range(2 * ROWS * STEPS)],
        optimizer_cls_and_kwargs=OPTIMIZER,
        callbacks=[IsEngine(engine)],
    )
    trainer.train(resume_from_checkpoint=resume_from and str(resume_from))
    trainer.save_model(str(folder / "final"))
    trainer.save_state()


def main(folder):
    from benchmarks.hosts.engines_on_cpu import patch_accelerate

    patch_accelerate()
    for engine in ENGINES:
        train(engine, folder / engine)
        train(engine, folder / f"{engine}, resumed", resume_from=folder / engine / "checkpoint-2")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
