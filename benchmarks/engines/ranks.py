"""Two processes that run many cells, one after the other. They are started again after a cell that ended badly."""

from __future__ import annotations

import multiprocessing as mp
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from torch import distributed as dist

from benchmarks.engines.cells import RANKS

LIMIT = 120  # seconds, for a cell


class Ranks:
    """Runs `function(*arguments, rank)` on all ranks. The processes are forked: import first what they need."""

    def __init__(self, function: Callable[..., Any], limit: float = LIMIT) -> None:
        self.function, self.limit = function, limit
        self.processes: list[Any] = []
        self.pipes: list[Any] = []

    def run(self, *arguments: Any) -> list[dict[str, Any]]:
        """For each rank {"result": ...}, {"error": text} or {"died": exit status}."""
        if not self.processes:
            self._start()
        for pipe in self.pipes:
            pipe.send(arguments)
        answers = [self._receive(rank) for rank in range(RANKS)]
        # After an error, a rank may have left a collective that the other one still waits in.
        if any("result" not in one for one in answers):
            self.close()
        return answers

    def _receive(self, rank: int) -> dict[str, Any]:
        try:
            if not self.pipes[rank].poll(self.limit):
                return {"died": f"it did not end within {self.limit} seconds"}
            answer: dict[str, Any] = self.pipes[rank].recv()
        except (EOFError, ConnectionError):
            self.processes[rank].join(10)
            return {"died": f"exit status {self.processes[rank].exitcode}"}
        return answer

    def _start(self) -> None:
        context = mp.get_context("fork")
        folder = Path(tempfile.mkdtemp())
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(rank, folder / "store", theirs, self.function), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.pipes.append(ours)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.pipes = [], []


def _work(rank: int, store: Path, pipe: Any, function: Callable[..., Any]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    while True:
        arguments = pipe.recv()
        try:
            answer = {"result": function(*arguments, rank)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        pipe.send(answer)
