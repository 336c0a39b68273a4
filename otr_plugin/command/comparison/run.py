"""One run, from its output folder: what its host and the plugin wrote there, and nothing else.

otr_run.json of the plugin comes first, then the host's own files: args.json, README.md, training_args.bin,
trainer_state.json, logging.jsonl, trainer_log.jsonl, debug.log, TensorBoard's events. A file that is missing leaves
out what only it holds; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otr_plugin.command.comparison import events, training_args
from otr_plugin.command.comparison.log import (
    Log,
    entries,
    lines_of_llamafactory,
    lines_of_swift,
    number,
    states,
)
from otr_plugin.command.comparison.run_files import ModelCard, flattened, read_json, read_lines, seconds_in_log
from otr_plugin.command.comparison.settings import first_of, in_one_line, of_the_host
from otr_plugin.command.console import UNREADABLE, Failure
from otr_plugin.hosts.resume import STATE_FILE, STATES, checkpoints, settings_in_state
from otr_plugin.hosts.run_record import RECORD_FILE, section

CARD, RECORD, ARGUMENTS, TRAINER = "README.md", RECORD_FILE, "args.json", "training_args.bin"
EVENTS = "TensorBoard's events"
LOOKED_FOR = (RECORD, STATE_FILE, "logging.jsonl", "trainer_log.jsonl", "checkpoint-N", "events.out.tfevents.*")
GIB = 2**30


@dataclass
class Run:
    """What the files of a run say; None and empty: they do not."""

    path: str
    name: str = ""  # as short as the other runs' names allow
    host: str | None = None
    steps: int = 0
    planned_steps: int | None = None
    otr: dict[str, Any] | None = None  # OTR's settings; None: it trained without OTR
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings, flat, by the file that has them
    model: str | None = None
    data: str | None = None
    fingerprint: str | None = None  # of the data's rows, which only the plugin records
    seeds: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)  # what decides how many tokens a step has
    versions: dict[str, str] = field(default_factory=dict)
    hardware: str | None = None
    times: dict[str, float] = field(default_factory=dict)  # seconds of training, by the file that has them
    peaks: dict[str, float] = field(default_factory=dict)  # GiB of a GPU at the peak, likewise
    log: list[dict[str, Any]] = field(default_factory=list)  # of training, by step
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        return self.planned_steps is not None and self.steps >= self.planned_steps

    def settings(self, files: Iterable[str] | None = None) -> dict[str, Any]:
        """The host's settings in these files, in all by default; the later of two files counts."""
        chosen = self.layers if files is None else files
        return of_the_host({name: value for file in chosen for name, value in self.layers[file].items()})


def read(path: Path) -> Run:
    folder = _folder_of_run(path)
    run = Run(str(path))
    _read_settings(run, folder)
    _read_log(run, folder)
    if not run.log and not run.evaluations:
        reason = "; ".join(run.notes) or f"a run has one of {', '.join(LOOKED_FOR)}"
        raise Failure(f"{path}: holds no log of a run: {reason}", UNREADABLE)
    _read_time_and_memory(run, folder)
    return run


def _folder_of_run(path: Path) -> Path:
    """The folder itself, or the only run in it: ms-swift writes to a folder v0-DATE of its own."""
    if not path.is_dir():
        what = "is no folder" if path.exists() else "there is no such folder"
        raise Failure(f"{path}: {what}: name the output_dir of a run", UNREADABLE)
    if _is_run(path):
        return path
    inside = sorted(each for each in path.iterdir() if each.is_dir() and _is_run(each))
    if len(inside) > 1:
        names = ", ".join(each.name for each in inside)
        raise Failure(f"{path}: holds several runs: name one of {names}", UNREADABLE)
    return inside[0] if inside else path


def _is_run(folder: Path) -> bool:
    names = (RECORD, STATE_FILE, "logging.jsonl", "trainer_log.jsonl", "training_args.bin", "debug.log")
    return any((folder / name).is_file() for name in names) or bool(
        checkpoints(folder) or list(folder.glob("events.out.tfevents.*")) or list(folder.glob("runs/**/events.out.*"))
    )


# Settings


def _read_settings(run: Run, folder: Path) -> None:
    record = _mapping(folder / RECORD)
    card = ModelCard(folder / "README.md")
    arguments = read_json(folder / "args.json")
    found = next(
        filter(None, (training_args.read(each / "training_args.bin") for each in (folder, *checkpoints(folder)))), None
    )
    trainer, module = found or ({}, "")
    # What comes later counts, where both have a setting: a command line may have changed what the card has.
    layers = {CARD: card.recipe(), RECORD: record.get("recipe"), ARGUMENTS: arguments, TRAINER: trainer}
    run.layers = {name: dict(flattened(each)) for name, each in layers.items() if isinstance(each, dict) and each}
    merged = {name: value for values in run.layers.values() for name, value in values.items()}
    facts = card.facts()
    run.host = record.get("host") or _host(module, merged, folder)
    run.otr = section(record, "otr") or None
    run.versions = card.versions() | {name: str(version) for name, version in section(record, "packages").items()}
    if merged.get("swift_version"):
        run.versions.setdefault("ms-swift", str(merged["swift_version"]))
    run.model = first_of(merged, "base_model", "model_name_or_path", "model") or in_one_line(facts.get("base_model"))
    if run.model is None:
        run.model = _mapping(folder / "adapter_config.json").get("base_model_name_or_path")
    named = {name: merged[name] for name in ("datasets", "dataset", "dataset_name") if merged.get(name)}
    run.data = in_one_line(next(iter(named.values()), None)) or in_one_line(facts.get("datasets"))
    run.fingerprint = section(record, "data").get("fingerprint")
    seeds = section(record, "seeds")
    run.seeds = {name: seeds.get(name, merged.get(name)) for name in ("seed", "data_seed")}
    run.tokens = {
        "micro-batch": first_of(merged, "per_device_train_batch_size", "micro_batch_size"),
        "accumulation": merged.get("gradient_accumulation_steps"),
        "processes": record.get("processes") or first_of(merged, "world_size", "global_world_size"),
        "length": first_of(merged, "sequence_len", "cutoff_len", "max_length", "max_seq_length"),
        "packing": first_of(merged, "sample_packing", "neat_packing", "packing"),
    }
    hardware = section(record, "hardware")
    run.hardware = hardware.get("accelerator") or hardware.get("processor")
    read_ones = {RECORD: record, ARGUMENTS: arguments, CARD: card.text, TRAINER: trainer}
    run.sources += [name for name, content in read_ones.items() if content]


def _host(module: str, merged: dict[str, Any], folder: Path) -> str | None:
    """By the module of the trainer's arguments, or by files that only one host writes."""
    module = module.removeprefix("otr_plugin.hosts.")  # where the class is that OTR's settings travel in
    for name in ("axolotl", "llamafactory", "swift", "trl", "transformers"):
        if module.startswith(f"{name}."):
            return name
    files = {"logging.jsonl": "swift", "trainer_log.jsonl": "llamafactory", "debug.log": "axolotl"}
    return next((host for name, host in files.items() if (folder / name).is_file()), None)


# The log


def _read_log(run: Run, folder: Path) -> None:
    log = Log()
    for path, state in states(folder):
        run.steps = max(run.steps, int(number(state.get("global_step")) or 0))
        run.planned_steps = int(number(state.get("max_steps")) or 0) or run.planned_steps
        saved = settings_in_state(state.get(STATES))
        if saved is not None:
            run.otr = run.otr or saved["settings"]
            run.versions.setdefault("otr-plugin", str(saved.get("version")))
        log.add(entries(state))
        run.sources.append(path.relative_to(folder).as_posix())
    for name, read_lines_of in (("logging.jsonl", lines_of_swift), ("trainer_log.jsonl", lines_of_llamafactory)):
        lines, planned = read_lines_of(read_lines(folder / name))
        run.planned_steps = run.planned_steps or planned
        if log.add(lines):
            run.sources.append(name)
    if events.event_files(folder):
        if events.can_read():
            lines, seconds = events.read(folder)
            if seconds:
                run.times[EVENTS] = seconds  # without the time before the first event
            if log.add(lines):
                run.sources.append(EVENTS)
        elif not log.entries:
            run.notes.append(
                "its log is in TensorBoard's files only, and the package tensorboard is not installed here: "
                "`pip install tensorboard`, or run otr where it is"
            )
    run.log, run.evaluations = log.training(), log.evaluations()
    run.steps = max([run.steps, *(int(each["step"]) for each in run.log)])
    if run.otr is None and any("otr/nll" in each for each in run.log):
        run.otr = {}  # it trains with OTR, and no file says with which settings yet


# Time and memory


def _read_time_and_memory(run: Run, folder: Path) -> None:
    record = _mapping(folder / RECORD)
    ends = [entry for _, state in states(folder) for entry in entries(state) if "train_loss" in entry]
    swift = [each for each in read_lines(folder / "logging.jsonl") if "train_speed(s/it)" in each]
    times = {
        STATE_FILE: ends[-1].get("train_runtime") if ends else None,
        "train_results.json": _mapping(folder / "train_results.json").get("train_runtime"),
        "debug.log": seconds_in_log(folder / "debug.log"),
        "logging.jsonl": swift[-1]["train_speed(s/it)"] * run.steps if swift else None,
        "the log": run.log[-1].get("train_runtime") if run.log else None,
        **run.times,
        RECORD: record.get("seconds"),
    }
    run.times = {name: seconds for name, each in times.items() if (seconds := number(each))}
    logged = [each[name] for each in run.log for name in ("memory/max_allocated (GiB)", "memory(GiB)") if name in each]
    allocated = number(section(record, "peak_memory").get("device_allocated"))
    peaks = {"the log": max(logged, default=0.0), RECORD: (allocated or 0.0) / GIB}
    run.peaks = {name: peak for name, peak in peaks.items() if peak}  # 0: there was no GPU


def _mapping(path: Path) -> dict[str, Any]:
    content = read_json(path)
    return content if isinstance(content, dict) else {}
