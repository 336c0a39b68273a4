"""Runs of the study in parallel processes with one thread each, until none is left or the time is over."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

import torch
from rich.console import Console

Work = TypeVar("Work")


def run_all(
    jobs: int,
    deadline: float,
    not_begun: Callable[[Collection[Work]], list[Work]],
    call: Callable[[Work], tuple[Any, ...]],
    finished: Callable[[Work, Any], None],
    console: Console,
) -> None:
    """Runs what `not_begun` returns, given what is under way, and hands each result to `finished`.

    `call` returns the function that a worker calls, and its arguments. After the deadline, or after Ctrl-C, no run
    begins, and those under way end.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not work in a forked process
    under_way: dict[Future[Any], Work] = {}
    stopped = False
    with ProcessPoolExecutor(jobs, context, initializer=_initialise_worker, initargs=(os.getpid(),)) as pool:
        while True:
            new = not_begun(under_way.values())
            stopped = stopped or time.monotonic() > deadline
            if not stopped:
                for work in new[: jobs - len(under_way)]:
                    under_way[pool.submit(*call(work))] = work
            if not under_way:
                return
            try:
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                if stopped:
                    raise
                stopped = True
                console.print("Stopping after the runs in progress. Press Ctrl-C again to stop now.")
                continue
            for future in done:
                finished(under_way.pop(future), future.result())


def disable_transformers_progress_bars() -> None:
    """They would break the lines of the study's own progress bars."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _initialise_worker(parent: int) -> None:
    """Uses one thread, so that parallel runs do not slow each other down, and exits when the parent has died."""
    disable_transformers_progress_bars()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def exit_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
