"""example_configs/trl, run by its own command for two steps, and its example in Python."""

import json
import sys

import pytest

from benchmarks.hosts.host import BIN
from benchmarks.paths import ROOT

EXAMPLES = sorted((ROOT / "example_configs" / "trl").glob("*.yaml"))


@pytest.fixture(autouse=True)
def examples(trl):
    if not (trl.folder / "example_configs").exists():
        (trl.folder / "example_configs").symlink_to(ROOT / "example_configs")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(trl, path):
    out = trl.folder / path.stem
    options = ("--max_steps", "2", "--logging_steps", "1", "--output_dir", str(out))
    done = trl.call(str(BIN / "trl"), "sft", "--config", str(path), *options)
    assert ("OTR is active: objective otr (256 samples" in done.stdout) == path.stem.endswith("-otr")
    log = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]


def test_it_runs_in_python(trl):
    done = trl.call(sys.executable, "example_configs/trl/train.py")
    assert "OTR is active: objective otr (256 samples" in done.stdout
    assert "'otr/hit_rate'" in done.stdout
    assert "'mean_token_accuracy'" in done.stdout
