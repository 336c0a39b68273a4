"""python -m benchmarks axolotl runs to its end, on a tiny model whose figures mean nothing."""

import json
import subprocess
import sys

from benchmarks.paths import ROOT
from benchmarks.performance.axolotl_step import PLAIN, table


def test_the_step_benchmark_writes_time_and_memory_of_every_contender(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "axolotl", "--small", "--rounds", "1", "--out", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "x.json").read_text())
    assert {"command", "date", "machine", "versions", "model", "recipe"} <= results.keys()
    assert list(results["contenders"]) == ["plain Axolotl", "otr: sampled", "otr: exact", "otr: sft"]
    assert all(figures["seconds"] > 0 for figures in results["contenders"].values())
    assert (tmp_path / "x.md").read_text().count("| otr: ") == 3


def test_a_process_that_needed_no_more_memory_has_no_ratio():
    figures = {"seconds": 0.5, "megabytes": 0.0}
    lines = table({"contenders": {PLAIN: figures, "otr: sampled": {"seconds": 1.0, "megabytes": 3.0}}})
    assert lines[2:] == [f"| {PLAIN} | 0.50 s | 0 MB | 1.00 | - |", "| otr: sampled | 1.00 s | 3 MB | 2.00 | - |"]
