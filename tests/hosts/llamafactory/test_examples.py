"""example_configs/llamafactory, run by its own command for two steps."""

import json

import pytest

from benchmarks.hosts.host import BIN
from benchmarks.paths import ROOT

EXAMPLES = sorted((ROOT / "example_configs" / "llamafactory").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(factory, path):
    out = factory.folder / path.stem
    command = (str(BIN / "llamafactory-cli"), "train", str(path), "max_steps=2", "logging_steps=1", f"output_dir={out}")
    if not (factory.folder / "example_configs").exists():
        (factory.folder / "example_configs").symlink_to(ROOT / "example_configs")
    done = factory.call(*command)
    assert ("OTR is active: objective otr (256 samples" in done.stdout + done.stderr) == path.stem.endswith("-otr")
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
