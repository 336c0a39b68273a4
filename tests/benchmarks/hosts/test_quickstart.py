"""`make quickstart`, killed in the middle and called again; its data, and the small model."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.paths import ROOT
from benchmarks.quickstart.command import METHODS
from benchmarks.quickstart.data import MODEL, NEW_SKILL, OLD_SKILLS, SMALL
from benchmarks.quickstart.pretrain import exact_match_by_skill
from tests.command.driver import otr

QUICKSTART = [sys.executable, "-m", "benchmarks", "quickstart"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart")
    (folder / "example_configs").symlink_to(ROOT / "example_configs")
    return folder


def test_the_small_model_has_the_exact_match_that_was_recorded():
    model = AutoModelForCausalLM.from_pretrained(MODEL).float()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    recorded = json.loads((SMALL / "made.json").read_text())["exact match"]
    assert exact_match_by_skill(model, tokenizer) == pytest.approx(recorded, abs=0.01)
    assert recorded.keys() == {*OLD_SKILLS, NEW_SKILL}
    assert all(recorded[skill] > 0.95 for skill in OLD_SKILLS)
    assert recorded[NEW_SKILL] < 0.05
    assert sum(path.stat().st_size for path in SMALL.rglob("*") if path.is_file()) < 2_000_000


def test_a_killed_quickstart_resumes_and_finishes(folder):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(QUICKSTART, cwd=folder, env=env, start_new_session=True)
    deadline = time.monotonic() + 1200  # against a hang; loaded machines are slow
    while not list(folder.glob("quickstart/otr/checkpoint-*/trainer_state.json")):
        assert time.monotonic() < deadline, "no checkpoint was saved"
        assert process.poll() is None, "the quickstart ended before it could be killed"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (folder / "quickstart" / "otr" / "checkpoint-999").mkdir()  # What a kill during a save leaves.
    finished = folder / "quickstart" / "sft" / "finished"
    before = finished.stat().st_mtime_ns
    again = subprocess.run(QUICKSTART, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert finished.stat().st_mtime_ns == before, "a finished training was done again"
    assert "resume from checkpoint at quickstart/otr/checkpoint-" in (folder / "quickstart" / "otr.log").read_text()
    printed = " ".join(again.stdout.split())
    for words in ("after SFT", "after OTR", "after OTR + NLL 0.1", "new skill (300)", "old skills (300)", "at random"):
        assert words in printed


def test_the_quickstart_leaves_results_and_a_plot(folder):
    results = json.loads((folder / "quickstart" / "results.json").read_text())
    assert {"command", "date", "machine", "versions"} <= results.keys()
    assert (results["examples"], results["wrong examples"]) == (768, 77)
    assert list(results["exact match"]) == ["base", *METHODS]
    for method in METHODS:
        log, scores = results["training"][method], results["exact match"][method]
        assert [entry["step"] for entry in log] == list(range(4, 193, 4))
        assert all(("otr/hit_rate" in entry) == (method != "sft") for entry in log)
        assert len(scores) == 8
        assert scores[-1]["new skill"] > 0.5 > results["exact match"]["base"][0]["new skill"]
        weights = [folder / "quickstart" / method / where / "model.safetensors" for where in (".", "checkpoint-192")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert len({json.dumps(results["exact match"][method]) for method in METHODS}) == len(METHODS)
    page, drawn = folder / "page.html", folder / "drawn.png"
    runs = [folder / "quickstart" / method for method in METHODS]
    compared = otr("compare", *runs, "--html", page, "--png", drawn)
    assert compared.exit_code == 0, compared.stdout
    assert "NLL per token at equal " in compared.stdout
    metrics = {name for name in results["training"]["otr"][0] if name.startswith("otr/")} - {"otr/nll"}
    assert page.read_text().count("<svg") == 2 + len(metrics)  # beside the NLL and its differences
    assert drawn.read_bytes().startswith(b"\x89PNG")
    picture = (folder / "quickstart" / "results.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
