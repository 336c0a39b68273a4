"""The benchmark of divided vocabularies runs, and its page is its file rendered."""

import json
import subprocess
import sys

from benchmarks.paths import RESULTS, ROOT
from benchmarks.performance import slices


def test_the_page_is_rendered_from_the_file():
    results = json.loads((RESULTS / "slices-cpu.json").read_text())
    assert (RESULTS / "slices-cpu.md").read_text() == slices.render(results)


def test_a_rank_needs_less_memory_than_one_process():
    results = json.loads((RESULTS / "slices-cpu.json").read_text())
    megabytes = {(cell["config"], cell["ranks"]): cell["megabytes"] for cell in results["cells"]}
    for config in slices.CONFIGS:
        assert megabytes[config, 4] < megabytes[config, 2] < megabytes[config, 1]


def test_the_benchmark_runs(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "slices", "--small", "--out", str(tmp_path / "slices")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "slices.json").read_text())["cells"]
    assert [cell["collectives"] > 0 for cell in cells] == [cell["ranks"] > 1 for cell in cells]
