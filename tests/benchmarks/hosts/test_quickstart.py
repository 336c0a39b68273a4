"""`make quickstart`, broken off in the middle and run again, as a person would."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.paths import ROOT
from benchmarks.quickstart.exact_match import accuracy
from benchmarks.quickstart.pretrain import NEW, NEW_SIZES, OLD, OLD_SIZES, SMALL, held_out
from benchmarks.string_skills import SKILLS

RUN = [sys.executable, "-m", "benchmarks", "quickstart"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "example_configs").symlink_to(ROOT / "example_configs")
    return folder


def test_the_model_that_is_carried_is_the_one_that_was_measured():
    model = AutoModelForCausalLM.from_pretrained(SMALL / "model").float()
    tokenizer = AutoTokenizer.from_pretrained(SMALL / "model")
    measured = json.loads((SMALL / "made.json").read_text())["held-out accuracy"]
    for skill in SKILLS:
        questions = held_out(skill, OLD_SIZES if skill in OLD else NEW_SIZES)
        assert accuracy(model, tokenizer, questions) == pytest.approx(measured[skill], abs=0.01), skill
    assert all(measured[skill] > 0.95 for skill in OLD)
    assert measured[NEW] < 0.05
    assert sum(path.stat().st_size for path in SMALL.rglob("*") if path.is_file()) < 2_000_000


def test_broken_off_and_run_again_it_finishes(folder):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(RUN, cwd=folder, env=env, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(folder.glob("quickstart/otr/checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline, "no checkpoint came"
        assert process.poll() is None, "it ended before it could be broken off"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder / "quickstart" / "otr" / "checkpoint-999").mkdir()  # as if it had been broken off while saving
    done = folder / "quickstart" / "sft" / "done"
    before = done.stat().st_mtime_ns
    again = subprocess.run(RUN, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert done.stat().st_mtime_ns == before, "what was done was done again"
    assert "resume from checkpoint at quickstart/otr/checkpoint-" in (folder / "quickstart" / "otr.log").read_text()
    for words in ("after SFT", "after OTR", "new skill, 300 asked", "old skills, 300 asked"):
        assert words in again.stdout


def test_what_it_leaves(folder):
    results = json.loads((folder / "quickstart" / "results.json").read_text())
    assert {"command", "date", "machine", "versions"} <= results.keys()
    for method in ("sft", "otr"):
        log, course = results["training"][method], results["scores"][method]
        assert [entry["step"] for entry in log] == list(range(4, 193, 4))
        assert all(("otr/hit_rate" in entry) == (method == "otr") for entry in log)
        assert len(course) == 8
        assert course[-1]["new skill"] > 0.5 > results["scores"]["base"][0]["new skill"]
        weights = [folder / "quickstart" / method / where / "model.safetensors" for where in (".", "checkpoint-192")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    picture = (folder / "quickstart" / "results.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
