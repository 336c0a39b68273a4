"""Every recipe in example_configs/swift trains two steps, by the host's own command or in miniature."""

import json
import sys

import pytest

from benchmarks.hosts.driver import BIN
from benchmarks.hosts.swift import log_of
from benchmarks.paths import EXAMPLES
from tests.hosts.command import compared
from tests.hosts.examples import METHODS, assert_all_trained_with_otr, assert_objective_of, written_in_miniature

RECIPES = [EXAMPLES / "swift" / f"quickstart-{method}.yaml" for method in METHODS]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(swift, path):
    swift.link_examples()
    out = swift.folder / path.stem
    command = (str(BIN / "swift"), "sft", str(path), "--max_steps", "2", "--logging_steps", "1")
    done = swift.call(*command, "--output_dir", str(out))
    assert_objective_of(path, done.stdout + done.stderr)
    assert [entry["step"] for entry in log_of(out) if "loss" in entry] == [1, 2]


def test_the_runs_are_compared(swift):
    """After the test above."""
    found = compared(swift.folder / "quickstart-sft", swift.folder / "quickstart-otr")
    assert [each["host"] for each in found["runs"]] == ["swift"] * 2
    assert found["differences"]["settings"] == []


def test_the_gallery_trains_in_miniature(swift):
    """`benchmarks.hosts.swift` does what `swift sft` does, without the check that flash attention is installed."""
    paths = written_in_miniature("swift", swift.folder / "gallery")
    out = swift.folder / "gallery.json"
    script = "from benchmarks.hosts.swift import main; main()"
    swift.call(sys.executable, "-c", script, str(out), *map(str, paths))
    assert [result["error"] for result in json.loads(out.read_text())] == [""] * len(paths)
    assert_all_trained_with_otr("swift", paths)
