"""`otr check --level host`, for the host that is installed where the test runs."""

import pytest

from benchmarks.paths import EXAMPLES, ROOT
from tests.command.driver import otr


def assert_the_host_accepts_its_examples_and_refuses(host, line, words, monkeypatch, tmp_path):
    """`line` is a key that only the host's own parser knows to be wrong; `words` are in its message."""
    monkeypatch.chdir(ROOT)  # the examples name their model and data from there
    examples = sorted((EXAMPLES / host).glob("quickstart-*.yaml"))
    reports = otr("check", *examples, "--level", "host", "--json").json["recipes"]
    assert [(report["exit_code"], report["problems"]) for report in reports] == [(0, [])] * 3
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((EXAMPLES / host / "quickstart-otr.yaml").read_text() + line + "\n")
    assert otr("check", recipe).exit_code == 0
    done = otr("check", recipe, "--level", "host")
    assert done.exit_code == 1
    assert "refuses the recipe: " in done.stdout
    assert words in done.stdout


def assert_doctor_finds(host):
    done = otr("doctor", "--json")
    (found,) = [each for each in done.json["hosts"] if each["name"] == host]
    assert found["installed"] in found["tried"]
    assert (done.exit_code, done.json["problems"]) == (0, [])


needs_this_host = pytest.mark.filterwarnings("default")  # a host's own warnings are no matter of this package
