"""A process that imports a host once, and forks a process of its own for each run.

The import takes 10 to 30 seconds, a run about one. A forked process shares the import, and nothing that a run does
stays for the next: seeds, patches of Liger, registered plugins, singletons of accelerate, crashes.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.hosts.driver import HostDriver
from benchmarks.hosts.features.host import Host, Log
from benchmarks.hosts.liger_on_cpu import patch_liger
from benchmarks.paths import ROOT

NOT_DISTURBED = "0:float32"
SECONDS = 600  # of one run; torch.compile takes minutes on a busy machine


@dataclass
class Run:
    """What one run has logged and printed, and the error that ended it, or ""."""

    log: Log
    error: str
    printed: str

    @property
    def steps(self) -> list[list[float]]:
        """The loss and the gradient norm of every logged step."""
        return [[entry["loss"], entry["grad_norm"]] for entry in self.log if "loss" in entry and "grad_norm" in entry]


class Worker:
    """The process, seen from the one that started it. Runs go one after another."""

    def __init__(self, host: str, driver: HostDriver, environment: Mapping[str, str]) -> None:
        self.folder = driver.folder
        env = driver.ENV | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._errors = self.folder / "-".join(["worker", host, *environment, "txt"])
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, host],
                cwd=self.folder,
                env=env | dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def run(self, recipe: Path, disturbance: str = NOT_DISTURBED) -> Run:
        """Trains the recipe. Its output folder has the recipe's name, and is deleted first.

        The disturbance, a seed and a precision, is noise in the weights as large as rounding to the precision makes.
        """
        shutil.rmtree(recipe.with_suffix(""), ignore_errors=True)
        self.start(recipe, disturbance=disturbance)
        return self.finish(recipe)

    def start(self, recipe: Path, *, seed: int = 1, disturbance: str = NOT_DISTURBED, fault: str = "") -> int:
        """Forks the process that trains the recipe, and returns its id, which is also that of its process group.

        `seed` is that of the random state with which the process starts. `fault` is a function that the process calls
        before it trains, as module:function.
        """
        request = {"recipe": str(recipe), "seed": seed, "disturbance": disturbance, "fault": fault}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._reply())

    def finish(self, recipe: Path) -> Run:
        """Waits for the end of the process that `start` forked."""
        ended, stem = self._reply(), recipe.with_suffix("")
        result, text = Path(f"{stem}.result.json"), Path(f"{stem}.txt")
        printed = text.read_text(errors="replace") if text.exists() else ""
        if result.exists():
            return Run(**json.loads(result.read_text()), printed=printed)
        return Run([], f"the process ended: {ended}", printed)

    def _reply(self) -> str:
        assert self._process.stdout is not None
        if not (reply := self._process.stdout.readline()):
            raise RuntimeError(f"the host's process ended:\n{self._errors.read_text()[-3000:]}")
        return reply.strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def main() -> None:
    from benchmarks.hosts.features import hosts

    host = hosts.of(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import prints is no reply
    host.start()
    if os.environ.get("TRITON_INTERPRET") == "1":
        patch_liger()
    _prepare()
    for line in sys.stdin:
        request = json.loads(line)
        recipe = Path(request.pop("recipe"))
        for suffix in (".result.json", ".txt"):
            recipe.with_suffix(suffix).unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _train_and_leave(host, recipe, **request)
        print(child, file=replies, flush=True)
        print(_wait(child), file=replies, flush=True)


def _prepare() -> None:
    """Does once what every run would do: loading a model compiles patterns and imports modules.

    Frozen objects are left alone by the collector; it would otherwise copy every page that the processes share.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained("model")
    AutoTokenizer.from_pretrained("model")
    gc.collect()
    gc.freeze()


def _wait(child: int) -> str:
    """Waits for the process; ends it and those that it started when its time is over. Returns how it ended."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return f"signal {-code}" if code < 0 else f"exit status {code}"
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"it took more than {SECONDS} seconds"


def _train_and_leave(host: Host, recipe: Path, *, seed: int, disturbance: str, fault: str) -> None:
    """Runs in the forked process."""
    os.setsid()  # so that the processes it starts can be ended with it
    stem = recipe.with_suffix("")
    output = os.open(f"{stem}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _own_locks()
    _seed(seed)
    if disturbance != NOT_DISTURBED:
        _disturb_weights(*disturbance.split(":"))
    result: dict[str, Any] = {"log": [], "error": ""}
    try:
        if fault:
            module, function = fault.split(":", 1)
            getattr(importlib.import_module(module), function)()
        result["log"] = host.train(recipe)
    except BaseException as error:
        traceback.print_exc()
        result["error"] = f"{type(error).__name__}: {error}"
    whole = Path(f"{stem}.result.json")  # never a part of it: the process may be killed here, too
    whole.with_suffix(".part").write_text(json.dumps(result, default=float))
    whole.with_suffix(".part").replace(whole)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # without the exit handlers of the host, which belong to the process that was forked


def _own_locks() -> None:
    """Gives the progress bars of this process a lock of their own.

    tqdm's lock is a semaphore that forked processes share, and one that is killed while it holds it never releases it.
    """
    from tqdm.std import tqdm

    classes = [tqdm]
    for each in classes:
        each.set_lock(threading.RLock())
        classes += each.__subclasses__()


def _seed(seed: int) -> None:
    """Both runs of a twin start from the same random state: Axolotl, for one, does not seed LoRA's initial weights.

    The seed should not be 0, which made the models.
    """
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _disturb_weights(seed: str, precision: str) -> None:
    """Every Trainer changes the weights, before it trains, by as much as rounding to the precision may change them."""
    import torch
    from transformers import Trainer

    own, half_a_digit = Trainer._inner_training_loop, torch.finfo(getattr(torch, precision)).eps / 2

    def training_loop(self: Any, *args: Any, **kwargs: Any) -> Any:
        generator = torch.Generator().manual_seed(int(seed))
        with torch.no_grad():
            for weight in self.model.parameters():
                if weight.is_floating_point():
                    noise = 2 * torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 1
                    weight.copy_(weight.double() * (1 + half_a_digit * noise))
        return own(self, *args, **kwargs)

    Trainer._inner_training_loop = training_loop


if __name__ == "__main__":
    main()
