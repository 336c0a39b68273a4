"""The process of one run: does what the host's command does with a recipe, and measures after every block of steps.

    python -m benchmarks.soak.worker HOST RECIPE BLOCK READ WRITE

After each block it writes a byte to the file descriptor WRITE and waits for one from READ, so that two runs can take
turns. The measurements are written to RECIPE.measured.json.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from transformers import TrainerCallback, set_seed
from transformers import trainer as transformers_trainer

from benchmarks.performance.memory import process_kilobytes

OBJECTS_EVERY = 5  # blocks: to count Python's objects takes as long as some steps


class Probe(TrainerCallback):
    """Measures the blocks of the one run of this process.

    A step's time is the processor's: on a busy machine, the time on the clock says more about the neighbours.
    """

    # Trainer constructs the callback from its class, so everything is the class's.
    block, read, write, before = 0, 0, 0, 0.0
    steps: ClassVar[list[float]] = []
    measured: ClassVar[dict[str, list[float]]] = {"milliseconds": [], "megabytes": [], "objects": []}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        os.read(self.read, 1)
        Probe.before = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.process_time()
        self.steps.append(now - Probe.before)
        if len(self.steps) == self.block:
            # The median leaves out the few steps with a log line, a checkpoint or an evaluation.
            self.measured["milliseconds"].append(1000 * statistics.median(self.steps))
            self.steps.clear()
            if len(self.measured["milliseconds"]) % OBJECTS_EVERY == 0:
                gc.collect()
                self.measured["objects"].append(len(gc.get_objects()))
            self.measured["megabytes"].append(process_kilobytes("VmRSS") / 1024)
            os.write(self.write, b".")
            os.read(self.read, 1)
            now = time.process_time()
        Probe.before = now


def main() -> None:
    host, recipe, block, read, write = sys.argv[1:]
    Probe.block, Probe.read, Probe.write = int(block), int(read), int(write)
    transformers_trainer.DEFAULT_CALLBACKS.append(Probe)
    own = import_module(f"benchmarks.hosts.features.{host}").HOST
    own.start()
    set_seed(0)  # TRL splits the data by numpy's random numbers, which nothing else seeds
    log = own.train(Path(recipe))
    Path(recipe).with_suffix(".measured.json").write_text(json.dumps(Probe.measured | {"log": log}))


if __name__ == "__main__":
    main()
