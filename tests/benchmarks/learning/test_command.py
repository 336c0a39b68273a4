"""`python -m benchmarks learning`, as a person would call it: killed, resumed, and asked for its page again."""

import json
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.learning import store
from benchmarks.learning.command import RESULTS

COMMAND = [sys.executable, "-m", "benchmarks", "learning", "--size", "smoke", "--jobs", "1"]


def learning(folder, *more, ok=True):
    done = subprocess.run([*COMMAND, "--work", folder, *more], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def runs_in(file):
    return [line for line in store.read(file) if line["kind"] not in ("session", "base")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Killed as soon as some runs are there, in the middle of a line; then started again."""
    folder = tmp_path_factory.mktemp("learning")
    file = folder / "smoke" / "learning.jsonl"
    process = subprocess.Popen([*COMMAND, "--work", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(3000):  # tenths of a second: importing alone can take a minute
        if len(runs_in(file)) >= 3 or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = runs_in(file)
    assert len(before) >= 3
    with file.open("a") as half:
        half.write('{"size": "smoke", "kind": "fin')
    assert "All runs are done." in learning(folder)
    assert runs_in(file)[: len(before)] == before
    return folder


def test_what_is_done_is_not_done_again(folder):
    file = folder / "smoke" / "learning.jsonl"
    runs = runs_in(file)
    keys = [(run["kind"], run["regime"], run["method"], run["rate"], run["seed"]) for run in runs]
    assert len(set(keys)) == len(keys)
    assert sum(line["kind"] == "base" for line in store.read(file)) == 1
    assert {kind for kind, *_ in keys} == {"before", "search", "final", "noise"}
    assert "All runs are done." in learning(folder)
    assert runs_in(file) == runs


def test_every_line_says_what_was_run(folder):
    for run in runs_in(folder / "smoke" / "learning.jsonl"):
        assert run["config"]["steps"] == 6
        if run["method"]:
            assert run["config"]["objective"] == ("otr" if run["method"] == "OTR" else "sft")
        assert run["figures"]


def test_page_comes_from_the_file_alone(folder, tmp_path):
    whole = folder / "smoke"
    made = {path.name: path.read_bytes() for path in whole.iterdir() if path.suffix in (".md", ".png")}
    assert {"learning.md", "learning-smoke-outcomes.png"} <= set(made)
    alone = tmp_path / "learning.jsonl"
    alone.write_bytes((whole / "learning.jsonl").read_bytes())
    learning(tmp_path, "--report", "--results", str(alone))
    again = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".md", ".png")}
    assert again == made
    assert store.read(alone) == store.read(whole / "learning.jsonl")  # asking adds nothing


def test_the_kept_page_is_the_kept_file_rendered(tmp_path):
    copy = tmp_path / RESULTS.name
    copy.write_bytes(RESULTS.read_bytes())
    learning(tmp_path, "--report", "--results", str(copy))
    assert copy.with_suffix(".md").read_text() == RESULTS.with_suffix(".md").read_text()


def test_a_piece_ends_in_time_and_says_what_is_left(tmp_path):
    assert "runs of size smoke are left; the same command goes on." in learning(tmp_path, "--minutes", "0")
    assert not runs_in(tmp_path / "smoke" / "learning.jsonl")


def test_errors_say_what_to_do(tmp_path):
    assert "learning: --jobs should be 1 or more, got 0" in learning(tmp_path, "--jobs", "0", ok=False)
    file = tmp_path / "broken.jsonl"
    file.write_text(json.dumps({"kind": "session"}) + "\nnonsense\n")
    said = learning(tmp_path, "--report", "--results", str(file), ok=False)
    assert f"{file}, line 2: expected one JSON object a line, got 'nonsense'. Remove that line" in said
