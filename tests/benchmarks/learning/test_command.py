"""`python -m benchmarks learning` as a user calls it: killed, resumed, and with --report."""

import json
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.learning import store
from benchmarks.learning.command import RESULTS
from benchmarks.learning.plan import SIZES

COMMAND = [sys.executable, "-m", "benchmarks", "learning", "--size", "smoke", "--jobs", "1"]


def learning(folder, *more, ok=True):
    """Runs the command and returns its output."""
    done = subprocess.run([*COMMAND, "--work", folder, *more], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs_in(file):
    return [line for line in store.read(file) if line["kind"] not in ("session", "base")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished smoke study that was killed after its first runs, while it wrote a line, and then resumed."""
    folder = tmp_path_factory.mktemp("learning")
    file = folder / "smoke" / "learning.jsonl"
    process = subprocess.Popen([*COMMAND, "--work", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(9000):  # tenths of a second, against a hang: the imports alone can take minutes
        if len(runs_in(file)) >= 3 or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = runs_in(file)
    assert len(before) >= 3
    with file.open("a") as incomplete:
        incomplete.write('{"size": "smoke", "kind": "fin')
    assert "All runs are done." in learning(folder)
    assert runs_in(file)[: len(before)] == before
    return folder


def test_finished_runs_are_not_repeated(folder):
    file = folder / "smoke" / "learning.jsonl"
    runs = runs_in(file)
    keys = [(run["kind"], run["regime"], run["method"], run["rate"], run["seed"]) for run in runs]
    assert len(set(keys)) == len(keys)
    assert sum(line["kind"] == "base" for line in store.read(file)) == 1
    assert {kind for kind, *_ in keys} == {"before", "search", "final", "noise"}
    assert "All runs are done." in learning(folder)
    assert runs_in(file) == runs


def test_every_line_records_its_settings(folder):
    for run in runs_in(folder / "smoke" / "learning.jsonl"):
        assert run["config"]["steps"] == 6
        if run["method"]:
            assert run["config"]["objective"] == ("otr" if run["method"] == "OTR" else "sft")
        assert run["figures"]


def test_page_and_plots_depend_only_on_the_results_file(folder, tmp_path):
    smoke = folder / "smoke"
    made = {path.name: path.read_bytes() for path in smoke.iterdir() if path.suffix in (".md", ".png")}
    assert {"learning.md", "learning-smoke-outcomes.png"} <= set(made)
    copy = tmp_path / "learning.jsonl"
    copy.write_bytes((smoke / "learning.jsonl").read_bytes())
    learning(tmp_path, "--report", "--results", str(copy))
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".md", ".png")}
    assert again == made
    assert store.read(copy) == store.read(smoke / "learning.jsonl")  # --report adds no line


def test_the_repositorys_page_is_current(tmp_path):
    copy = tmp_path / RESULTS.name
    copy.write_bytes(RESULTS.read_bytes())
    learning(tmp_path, "--report", "--results", str(copy))
    assert copy.with_suffix(".md").read_text() == RESULTS.with_suffix(".md").read_text()


def test_every_recorded_run_has_the_present_settings():
    """The study's settings and names may not change without repeating the runs."""
    lines = store.read(RESULTS)
    runs = [line for line in lines if line["kind"] not in ("session", "base")]
    recognised = store.results(lines, SIZES["cpu"]).figures
    assert len(recognised) == len(runs)
    assert list(recognised.values()) == [run["figures"] for run in runs]


def test_the_time_limit_ends_a_call_with_the_number_of_remaining_runs(tmp_path):
    assert "runs of size smoke are left; the same command continues." in learning(tmp_path, "--minutes", "0")
    assert not runs_in(tmp_path / "smoke" / "learning.jsonl")


def test_error_messages_contain_the_remedy(tmp_path):
    assert "learning: --jobs should be 1 or more, got 0" in learning(tmp_path, "--jobs", "0", ok=False)
    file = tmp_path / "broken.jsonl"
    file.write_text(json.dumps({"kind": "session"}) + "\nnonsense\n")
    output = learning(tmp_path, "--report", "--results", str(file), ok=False)
    assert f"{file}, line 2: expected one JSON object per line, got 'nonsense'. Remove that line" in output


def test_a_results_file_without_a_base_model_gets_no_page(tmp_path):
    file = tmp_path / "empty.jsonl"
    output = learning(tmp_path, "--report", "--results", str(file))
    assert f"{file} has no base model, so no page was written. Run `python -m benchmarks learning` first." in output
    assert not file.with_suffix(".md").exists()
