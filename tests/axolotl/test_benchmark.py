"""python -m benchmarks axolotl, on a model that is too small to say anything."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_a_step_with_the_plugin_and_without(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "axolotl", "--small", "--rounds", "1", "--out", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "x.json").read_text())
    assert {"command", "date", "machine", "versions", "model", "recipe"} <= results.keys()
    assert list(results["contenders"]) == ["plain Axolotl", "otr: sampled", "otr: exact", "otr: sft"]
    assert all(figures["seconds"] > 0 for figures in results["contenders"].values())
    assert (tmp_path / "x.md").read_text().count("| otr: ") == 3
