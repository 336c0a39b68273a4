"""`otr` where TRL is installed."""

from benchmarks.paths import EXAMPLES
from tests.command.driver import otr
from tests.hosts.command import (
    assert_doctor_finds,
    assert_the_host_accepts_its_examples_and_refuses,
    assert_the_host_counts_rows,
    needs_this_host,
)


@needs_this_host
def test_the_hosts_own_parser_reads_the_recipe(monkeypatch, tmp_path):
    assert_the_host_accepts_its_examples_and_refuses(
        "trl", "weight_decay: heavy", "weight_decay", monkeypatch, tmp_path
    )


@needs_this_host
def test_the_host_prepares_some_rows(monkeypatch, tmp_path):
    assert_the_host_counts_rows("trl", 1, "max_length", None, monkeypatch, tmp_path)


@needs_this_host
def test_keys_that_trl_does_not_have_are_problems(tmp_path):
    """But for those that `accelerate launch` has, and the variables below `env`."""
    recipe = tmp_path / "recipe.yaml"
    own = (EXAMPLES / "trl" / "quickstart-otr.yaml").read_text()
    recipe.write_text(own + "env: {A: 1}\nnum_processes: 1\nlora_alhpa: 16\n")
    (report,) = otr("check", recipe, "--level", "host", "--json").json["recipes"]
    message = "`lora_alhpa: 16`: TRL has no such key, and would train without it: write `lora_alpha`"
    assert report["problems"] == [{"line": len(recipe.read_text().splitlines()), "message": message}]


def test_doctor_finds_the_host():
    assert_doctor_finds("trl")
