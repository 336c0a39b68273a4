"""Every recipe in example_configs/llamafactory trains two steps, by the host's own command or in miniature."""

import json
import sys

import pytest

from benchmarks.hosts.driver import BIN
from benchmarks.paths import EXAMPLES
from tests.hosts.command import compared
from tests.hosts.examples import METHODS, assert_all_trained_with_otr, assert_objective_of, written_in_miniature

RECIPES = [EXAMPLES / "llamafactory" / f"quickstart-{method}.yaml" for method in METHODS]
# Does what `llamafactory-cli train` does, for several recipes in one process.
SCRIPT = """
import sys
from llamafactory.train.tuner import run_exp
for recipe in sys.argv[1:]:
    sys.argv = ["llamafactory-cli", recipe]
    run_exp()
"""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(factory, path):
    factory.link_examples()
    out = factory.folder / path.stem
    command = (str(BIN / "llamafactory-cli"), "train", str(path), "max_steps=2", "logging_steps=1", f"output_dir={out}")
    done = factory.call(*command)
    assert_objective_of(path, done.stdout + done.stderr)
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]


def test_the_runs_are_compared(factory):
    """After the test above."""
    found = compared(factory.folder / "quickstart-sft", factory.folder / "quickstart-otr")
    assert [each["host"] for each in found["runs"]] == ["llamafactory"] * 2
    assert [each["data"] for each in found["runs"]] == ["desc-wrong10"] * 2
    assert found["differences"]["settings"] == []


def test_the_gallery_trains_in_miniature(factory):
    paths = written_in_miniature("llamafactory", factory.folder / "gallery")
    factory.call(sys.executable, "-c", SCRIPT, *map(str, paths))
    assert_all_trained_with_otr("llamafactory", paths)
