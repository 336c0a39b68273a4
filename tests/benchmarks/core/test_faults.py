"""The suite of faults: which checkpoints are whole, how results are judged, and what docs/overnight.md claims."""

import math

import pytest

from benchmarks.faults import broken_checkpoint, full_disk, memory, odd_data, page, signals
from benchmarks.faults.runs import first_difference, remove_broken_checkpoints, training_log
from benchmarks.hosts.features.feature import FULL
from benchmarks.hosts.features.worker import Run
from benchmarks.paths import RESULTS

FILES = page.results(RESULTS)


def test_broken_checkpoints_are_deleted_from_the_last_one_on(tmp_path):
    for step, state in ((2, "{}"), (4, ""), (6, "{}"), (8, '{"log_his'), (10, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert remove_broken_checkpoints(tmp_path) == (tmp_path / "checkpoint-6", 2)
    assert remove_broken_checkpoints(tmp_path) == (tmp_path / "checkpoint-6", 0)
    assert (tmp_path / "checkpoint-4").exists(), "no host resumes from it"


def test_an_output_without_a_checkpoint_is_deleted(tmp_path):
    (tmp_path / "run" / "checkpoint-2").mkdir(parents=True)
    assert remove_broken_checkpoints(tmp_path / "run") == (None, 1)
    assert not (tmp_path / "run").exists()


def test_the_first_step_that_differs_is_found():
    log = training_log([{"step": i, "loss": 1.0, "otr/hit_rate": 0.5, "train_runtime": i} for i in (1, 2, 3)])
    assert log[0] == {"step": 1, "loss": 1.0, "otr/hit_rate": 0.5}
    assert first_difference(log, log) is None
    assert first_difference(log, log[:2]) == 3
    other = [entry | {"otr/hit_rate": 0.25} if entry["step"] == 2 else entry for entry in log]
    assert first_difference(log, other) == 2


def run(*losses, error=""):
    return Run([{"loss": loss, "grad_norm": 1.0} for loss in losses], error, "")


@pytest.mark.parametrize(
    ("plain", "sft", "ours", "result"),
    [
        (run(4.0, 3.0), run(4.0, 3.000001), run(4.0, 3.5), odd_data.SAME),
        (run(4.0, 3.0), run(4.0, 3.1), run(4.0, 3.5), odd_data.DIFFERS),
        (run(math.nan), run(0.0), run(0.0), odd_data.HOSTS_NAN),
        (run(0.0), run(math.nan), run(0.0), odd_data.NOT_FINITE),
        (run(0.0), run(0.0), run(math.nan), odd_data.NOT_FINITE),
        (run(0.0), run(), run(0.0), odd_data.NOT_FINITE),
        (run(error="IndexError"), run(error="ValueError"), run(error="ValueError"), odd_data.BOTH_ERRORS),
        (run(1.0), run(error="ValueError"), run(error="ValueError"), odd_data.REFUSED),
        (run(1.0), run(1.0), run(error="ValueError"), odd_data.DIFFERS),
        (run(error="IndexError"), run(1.0), run(1.0), odd_data.ONLY_WITH_OTR),
    ],
)
def test_odd_data_is_judged(plain, sft, ours, result):
    assert odd_data.judge(plain, sft, ours) == result


def counted(runs, same, **more):
    return {"runs": runs, "runs as the unbroken one": same, **more}


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ({"OTR": counted(3, 3), "plain": counted(2, 2)}, "same bits"),
        ({"OTR": counted(3, 2), "plain": counted(2, 2)}, "**differs**"),
        ({"OTR": counted(3, 2, errors=["x"]), "plain": counted(2, 2)}, "**differs**"),
        (
            {"OTR": counted(3, 0), "plain": counted(2, 1, **{"first other step": 5})},
            "the host alone differs, from step 5; so does OTR",
        ),
        ({"OTR": counted(1, 0, errors=["x"]), "plain": counted(1, 0, errors=["x"])}, "the host does not resume it"),
        ({"error": "ImportError: streaming"}, "not run by the host here"),
    ],
)
def test_killed_recipes_are_told(cell, words):
    assert page.told(cell) == words


@pytest.mark.parametrize("host", page.COLUMNS)
class TestTheKeptResults:
    def test_fifty_kills_with_otr_end_as_the_unbroken_run(self, host):
        cell = FILES[host]["kills"][FULL]
        assert cell["OTR"]["kills"] >= 50
        assert all(cell["OTR"]["moments"].values()), "no moment is left out"
        assert page.repeats(cell["OTR"])
        assert page.repeats(cell["plain"])
        assert cell["plain, unbroken, again"] == {"same weights": True, "first other step": None}

    def test_a_recipe_that_the_host_repeats_is_repeated_with_otr(self, host):
        for recipe, cell in FILES[host]["kills"].items():
            assert "**" not in page.told(cell), recipe
            assert "only" not in page.told(cell), recipe

    def test_a_broken_checkpoint_ends_as_without_otr(self, host):
        cell = FILES[host]["broken checkpoint"][broken_checkpoint.CASE]
        assert cell["OTR"] == cell["plain"]

    def test_a_full_disk_ends_with_the_hosts_error_and_is_survived(self, host):
        trials = FILES[host]["disk"][full_disk.CASE]["trials"]
        assert trials
        for trial in trials:
            assert page.own_error(trial["plain"], trial["OTR"]), trial
            assert trial["OTR"]["as the unbroken run"], trial

    def test_a_signal_ends_the_run_as_without_otr(self, host):
        for case in signals.CASES:
            cell = FILES[host]["signals"][case]
            assert cell["OTR"]["ended"] == cell["plain"]["ended"], case
            assert cell["OTR"]["as the unbroken run"], case

    def test_short_memory_is_survived_with_one_warning(self, host):
        cells = FILES[host]["memory"]
        for case in (memory.SHORT, memory.ONCE):
            assert cells[case]["warnings"] == 1
            assert cells[case]["largest difference"] < 1e-4
        assert cells[memory.FOR_GOOD]["own message"]
        assert cells[memory.FOR_GOOD]["advice"]


def test_odd_data_never_trains_differently():
    tried = {host: file["data"] for host, file in FILES.items() if file["data"]}
    assert len(tried) >= 2
    good = (odd_data.SAME, odd_data.HOSTS_NAN, odd_data.BOTH_ERRORS)
    for cells in tried.values():
        assert {name: cell["result"] for name, cell in cells.items() if cell["result"] not in good} == {}
