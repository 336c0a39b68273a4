"""example_configs/swift, run by its own command for two steps."""

import pytest

from benchmarks.hosts.host import BIN
from benchmarks.hosts.swift import ROOT, log_of

EXAMPLES = sorted((ROOT / "example_configs" / "swift").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(swift, path):
    out = swift.folder / path.stem
    command = (str(BIN / "swift"), "sft", str(path), "--max_steps", "2", "--logging_steps", "1")
    if not (swift.folder / "example_configs").exists():
        (swift.folder / "example_configs").symlink_to(ROOT / "example_configs")
    done = swift.call(*command, "--output_dir", str(out))
    assert ("OTR is active: objective otr (256 samples" in done.stdout + done.stderr) == path.stem.endswith("-otr")
    assert [entry["step"] for entry in log_of(out) if "loss" in entry] == [1, 2]
