"""An Axolotl plugin that measures: the time of every step, and the memory that steps take at the peak."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

from benchmarks.performance.memory import process_kilobytes, reset_peak

WARM_UP = 2  # steps


class Watch(TrainerCallback):
    def __init__(self, folder: str) -> None:
        self.out = Path(folder) / "probe.json"
        self.seconds: list[float] = []
        self.steps = self.before = 0
        self.start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.steps == WARM_UP:
            self.before = process_kilobytes("VmRSS")
            reset_peak()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        if self.steps > WARM_UP:
            self.seconds.append(time.perf_counter() - self.start)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        megabytes = (process_kilobytes("VmHWM") - self.before) / 1024
        self.out.write_text(json.dumps({"seconds": self.seconds, "megabytes": megabytes}))


class Probe(BasePlugin):
    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [Watch(cfg.output_dir)]
