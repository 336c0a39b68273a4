"""An Axolotl plugin that measures the time of every step and the peak memory of the steps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback

from benchmarks.performance.memory import process_kilobytes, reset_peak

WARM_UP = 2  # steps that are not measured


class Stopwatch(TrainerCallback):
    """Writes probe.json to the folder when training ends: the seconds of each step, and the peak memory in MB."""

    def __init__(self, folder: str) -> None:
        self.out = Path(folder) / "probe.json"
        self.seconds: list[float] = []
        self.steps = self.kilobytes_before = 0
        self.start = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.steps == WARM_UP:
            self.kilobytes_before = process_kilobytes("VmRSS")
            reset_peak()
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1
        if self.steps > WARM_UP:
            self.seconds.append(time.perf_counter() - self.start)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        megabytes = (process_kilobytes("VmHWM") - self.kilobytes_before) / 1024
        self.out.write_text(json.dumps({"seconds": self.seconds, "megabytes": megabytes}))


class Probe(BasePlugin):
    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [Stopwatch(cfg.output_dir)]
