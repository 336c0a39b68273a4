"""Every recipe in example_configs/swift trains two steps by the host's own command."""

import pytest

from benchmarks.hosts.driver import BIN
from benchmarks.hosts.swift import log_of
from benchmarks.paths import EXAMPLES
from tests.hosts.examples import assert_objective_of

RECIPES = sorted((EXAMPLES / "swift").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_trains(swift, path):
    swift.link_examples()
    out = swift.folder / path.stem
    command = (str(BIN / "swift"), "sft", str(path), "--max_steps", "2", "--logging_steps", "1")
    done = swift.call(*command, "--output_dir", str(out))
    assert_objective_of(path, done.stdout + done.stderr)
    assert [entry["step"] for entry in log_of(out) if "loss" in entry] == [1, 2]
