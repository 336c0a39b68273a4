"""Every recipe in example_configs/trl trains two steps by the host's own command; the Python example trains too."""

import json
import sys

import pytest

from benchmarks.hosts.driver import BIN
from benchmarks.paths import EXAMPLES
from tests.hosts.examples import DEFAULTS, assert_objective_of

RECIPES = sorted((EXAMPLES / "trl").glob("*.yaml"))


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
