"""The suite of faults, in transformers' Trainer: `make faults` runs more of it, in every host."""

import random

import pytest

from benchmarks.faults import broken_checkpoint, full_disk, kills, memory, odd_data
from benchmarks.faults.runs import Runs
from benchmarks.hosts.features.feature import FULL


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with Runs("transformers", tmp_path_factory.mktemp("faults")) as runs:
        yield runs


@pytest.fixture(scope="module")
def unbroken(runs):
    return kills.unbroken(runs, "unbroken", runs.keys(FULL), otr=True)


def killed(runs, timing, **more):
    draw = random.Random(0)
    return kills.killed(runs, "killed", runs.keys(FULL), otr=True, kills=3, timing=timing, draw=draw, **more)


def test_a_killed_run_ends_as_the_unbroken_one(runs, unbroken):
    wanted, timing = unbroken
    run = killed(runs, timing)
    assert "error" not in run
    assert run["kills"]
    assert len(wanted["log"]) == 100
    assert run["log"] == wanted["log"]
    assert run["weights"] == wanted["weights"]


def draws_from_the_clock():
    from otr_plugin.model import handle

    handle.draw_seed = lambda *key: random.SystemRandom().getrandbits(40)


def test_a_run_with_other_draws_after_a_kill_would_be_seen(runs, unbroken):
    wanted, timing = unbroken
    run = killed(runs, timing, fault=f"{__name__}:draws_from_the_clock")
    assert run["weights"] != wanted["weights"]
    assert kills.first_difference(run["log"], wanted["log"]) is not None


def test_a_full_disk_ends_the_run_with_the_hosts_error(runs):
    if reason := full_disk.why_not():
        pytest.skip(f"a small disk cannot be mounted: {reason}")
    (trial,) = full_disk.cell(runs, seed=0, trials=1)["trials"]
    assert "No space left on device" in trial["OTR"]["error"]
    assert trial["OTR"]["error"] == trial["plain"]["error"]
    assert trial["OTR"]["as the unbroken run"]


def test_short_memory_halves_the_chunk_and_none_says_what_to_do(runs):
    for case in (memory.SHORT, memory.ONCE):
        cell = memory.cell(runs, case)
        assert cell["warnings"] == 1
        assert cell["largest difference"] < 1e-5
    cell = memory.cell(runs, memory.FOR_GOOD)
    assert cell == {"warnings": 0, "ends with": "RuntimeError", "own message": True, "advice": True}


def test_a_broken_checkpoint_ends_the_run_with_the_hosts_error(runs):
    cell = broken_checkpoint.cell(runs)
    assert "trainer_state.json" in cell["plain"]
    assert cell["OTR"] == cell["plain"]


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("every other batch without a label", odd_data.HOSTS_NAN),
        ("a label as large as the vocabulary", odd_data.BOTH_ERRORS),
        ("a vocabulary of one", odd_data.SAME),
    ],
)
def test_odd_data(runs, case, result):
    assert odd_data.cell(runs, case)["result"] == result
