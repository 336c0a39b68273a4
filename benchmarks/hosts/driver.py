"""What all drivers of real hosts share: a tiny model, data, recipes, and a call of the host's own command on a CPU."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from benchmarks.paths import EXAMPLES

BIN = Path(sys.executable).parent
HUNG_AFTER_SECONDS = 900  # the slowest run takes about 40 seconds on a quiet machine
CPU_ENVIRONMENT = {
    **os.environ,
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # Hosts start `accelerate` and `torchrun` by name.
    "HF_HUB_OFFLINE": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
# The part of a recipe that every host built on transformers' TrainingArguments accepts.
CPU_TRAINER_RECIPE: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "max_steps": 6,
    "learning_rate": 0.01,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "seed": 3,
}


def make_model(folder: Path, **settings: Any) -> None:
    """Writes a random Llama, and a tokenizer with one token for each character; `settings` change its LlamaConfig."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz0123456789 .:+="]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    LlamaForCausalLM(LlamaConfig(**sizes | settings)).save_pretrained(folder)


def sums(count: int = 96, digits: int = 1) -> list[tuple[str, str]]:
    """Returns the data that every driver trains on: (question, answer) pairs such as ("7+5=", "12.").

    Answers are padded with zeros to `digits` digits; with 3 they all have the same length.
    """
    draw = random.Random(0)
    pairs = [(draw.randint(0, 99), draw.randint(0, 99)) for _ in range(count)]
    return [(f"{a}+{b}=", f"{a + b:0{digits}d}.") for a, b in pairs]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class CommandHungError(AssertionError):
    """A command did not end in time; the message has the Python stacks of its processes."""


def run_command(*command: str, folder: Path, env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
    """Runs a command in the folder and returns its output. With `check`, a failure raises the end of the output."""
    env = env | {"PYTHONFAULTHANDLER": "1"}  # a process that is sent SIGABRT prints its stacks
    with subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=HUNG_AFTER_SECONDS)
        except subprocess.TimeoutExpired:
            _abort_with_children(process.pid)
            stdout, stderr = process.communicate()
            raise CommandHungError(
                f"{' '.join(command)} did not end within {HUNG_AFTER_SECONDS} seconds:\n{stdout[-3000:]}\n"
                f"{stderr[-20000:]}"
            ) from None
    done = subprocess.CompletedProcess(command, process.returncode, stdout, stderr)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{stdout[-3000:]}\n{stderr[-6000:]}")
    return done


def _abort_with_children(pid: int) -> None:
    """Ends a process and all that it started, the innermost first, by SIGABRT, and after 10 seconds by SIGKILL."""
    import psutil

    root = psutil.Process(pid)
    processes = [*reversed(root.children(recursive=True)), root]
    for number in (signal.SIGABRT, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, timeout=10)


def retry_if_a_rank_died(run: Callable[[], Any]) -> Any:
    """Calls `run`, and once more if a rank died by signal 6 or 11, or if the ranks hung.

    Each has been seen once with gloo, in some hundred runs. The first error is printed, with the stacks of a hang.
    """
    try:
        return run()
    except AssertionError as error:
        if not isinstance(error, CommandHungError) and not re.search(r"Signal (6|11) ", str(error)):
            raise
        print(f"a rank died by a signal, or hung; running again:\n{error}")
        return run()


class HostDriver(ABC):
    """Runs a host in one folder, which holds a model, data, recipes and the outputs of the runs."""

    ENV: dict[str, str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_model(folder / "model")

    @abstractmethod
    def settings(self, name: str, **changes: Any) -> dict[str, Any]:
        """Returns the recipe of the run with this name; `changes` replace settings."""

    def recipe(self, name: str, **changes: Any) -> Path:
        """Writes the recipe of `settings` to NAME.yaml and returns its path."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.settings(name, **changes)))
        return path

    def call(
        self, *command: str, check: bool = True, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in the folder, with `env` added to the driver's environment."""
        return run_command(*command, folder=self.folder, env=self.ENV | (env or {}), check=check)

    def link_examples(self) -> None:
        """Makes example_configs available in the folder: the recipes name their model and data relative to it."""
        link = self.folder / EXAMPLES.name
        if not link.exists():
            link.symlink_to(EXAMPLES)

    def log_of(self, name: str) -> list[dict[str, float]]:
        """Returns the log history in the last checkpoint of the run."""
        states = sorted((self.folder / name).glob("checkpoint-*/trainer_state.json"), key=lambda p: p.stat().st_mtime)
        log: list[dict[str, float]] = json.loads(states[-1].read_text())["log_history"]
        return log
