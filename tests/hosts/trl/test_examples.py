"""Every recipe of the examples trains two steps, by TRL's command or in miniature; the Python example trains too."""

import json
import sys

import pytest

from benchmarks.hosts.driver import BIN
from benchmarks.hosts.trl import SCRIPT
from benchmarks.paths import EXAMPLES
from tests.hosts.command import compared
from tests.hosts.examples import (
    DEFAULTS,
    METHODS,
    assert_all_trained_with_otr,
    assert_objective_of,
    written_in_miniature,
)

RECIPES = [EXAMPLES / "trl" / f"quickstart-{method}.yaml" for method in METHODS]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(trl, path):
    trl.link_examples()
    out = trl.folder / path.stem
    options = ("--max_steps", "2", "--logging_steps", "1", "--output_dir", str(out))
    done = trl.call(str(BIN / "trl"), "sft", "--config", str(path), *options)
    assert_objective_of(path, done.stdout)
    log = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]


def test_the_python_example_trains(trl):
    trl.link_examples()
    done = trl.call(sys.executable, "example_configs/trl/train.py")
    assert DEFAULTS in done.stdout
    assert "'otr/hit_rate'" in done.stdout
    assert "'mean_token_accuracy'" in done.stdout


def test_the_runs_are_compared(trl):
    """After the tests above. TRL writes down neither the model nor the data, and two steps count too few tokens."""
    found = compared(trl.folder / "quickstart-sft", trl.folder / "quickstart-otr", exit_code=3)
    assert [each["host"] for each in found["runs"]] == ["trl"] * 2
    assert found["differences"]["settings"] == []


def test_the_gallery_trains_in_miniature(trl):
    paths = written_in_miniature("trl", trl.folder / "gallery")
    trl.call(sys.executable, "-c", SCRIPT, *map(str, paths))
    assert_all_trained_with_otr("trl", paths)
