"""The scalars in a run's TensorBoard files, by the reader of the package tensorboard, where it is installed."""

from __future__ import annotations

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# transformers writes `loss` as train/loss and `eval_loss` as eval/loss; OTR's metrics as train/otr/nll.
GROUPS = {"train/": "", "eval/": "eval_"}


def event_files(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.rglob("events.out.tfevents.*")})


def can_read() -> bool:
    return find_spec("tensorboard") is not None


def read(folder: Path) -> tuple[list[dict[str, Any]], float | None]:
    """The log entries by step, as in a trainer's log history, and the seconds from the first to the last one."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    entries: dict[tuple[int, str], dict[str, Any]] = defaultdict(dict)
    times: list[float] = []
    for each in event_files(folder):
        reader = EventAccumulator(str(each), size_guidance={"scalars": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            group = next((name for name in GROUPS if tag.startswith(name)), None)
            if group is None:
                continue
            for event in reader.Scalars(tag):
                entries[event.step, group][GROUPS[group] + tag.removeprefix(group)] = event.value
                times.append(event.wall_time)
    log = [{"step": step, **values} for (step, _), values in sorted(entries.items())]
    return log, max(times) - min(times) if times else None
