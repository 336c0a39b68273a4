"""Every recipe in example_configs/llamafactory trains two steps by the host's own command."""

import json

import pytest

from benchmarks.hosts.driver import BIN
from benchmarks.paths import EXAMPLES
from tests.hosts.examples import assert_objective_of

RECIPES = sorted((EXAMPLES / "llamafactory").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(factory, path):
    factory.link_examples()
    out = factory.folder / path.stem
    command = (str(BIN / "llamafactory-cli"), "train", str(path), "max_steps=2", "logging_steps=1", f"output_dir={out}")
    done = factory.call(*command)
    assert_objective_of(path, done.stdout + done.stderr)
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
