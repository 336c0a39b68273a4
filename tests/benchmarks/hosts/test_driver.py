"""A command of a host that hangs is ended with everything that it started, and reports where each process was."""

import os
import sys
import time

import psutil
import pytest

from benchmarks.hosts import driver

HANGS = """
import pathlib, subprocess, sys, time
def wait_for_the_other_rank(): time.sleep(99)
child = "def wait_for_the_first_rank(): time.sleep(99)\\nimport time\\nwait_for_the_first_rank()"
started = subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
pathlib.Path("pid").write_text(str(started.pid))
wait_for_the_other_rank()
"""


def test_a_command_that_hangs_reports_the_stacks_of_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "HUNG_AFTER_SECONDS", 2)
    (tmp_path / "hangs.py").write_text(HANGS)
    start = time.monotonic()
    with pytest.raises(driver.CommandHungError) as error:
        driver.run_command(sys.executable, "hangs.py", folder=tmp_path, env=dict(os.environ), check=True)
    assert "in wait_for_the_other_rank" in str(error.value)
    assert str(error.value).count("Fatal Python error: Aborted") == 2
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert time.monotonic() - start < 30


def test_ranks_that_hang_are_started_once_more():
    calls = []

    def run():
        calls.append(1)
        if len(calls) == 1:
            raise driver.CommandHungError("the stacks")
        return "done"

    assert driver.retry_if_a_rank_died(run) == "done"
