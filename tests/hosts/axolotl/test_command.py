"""`otr` where Axolotl is installed."""

from importlib.metadata import EntryPoint

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
        "axolotl", "weight_decay: heavy", "weight_decay", monkeypatch, tmp_path
    )


@needs_this_host
def test_the_host_prepares_some_rows(monkeypatch, tmp_path):
    assert_the_host_counts_rows("axolotl", 1, "sequence_len", "tokens: [zy]", monkeypatch, tmp_path)


@needs_this_host
def test_keys_that_axolotl_drops_are_problems(tmp_path):
    """Its parser drops them without a word. `flash_attention` is an old name, which a validator replaces."""
    recipe = tmp_path / "recipe.yaml"
    own = (EXAMPLES / "axolotl" / "quickstart-otr.yaml").read_text().replace("attn_implementation: sdpa\n", "")
    recipe.write_text(own + "flash_attention: true\nlora_alhpa: 16\nno_such_key_at_all: 1\n")
    (report,) = otr("check", recipe, "--level", "host", "--json").json["recipes"]
    last = len(recipe.read_text().splitlines())
    assert [(problem["line"], problem["message"]) for problem in report["problems"]] == [
        (last - 1, "`lora_alhpa: 16`: Axolotl has no such key, and would train without it: write `lora_alpha`"),
        (last, "`no_such_key_at_all: 1`: Axolotl has no such key, and would train without it: remove it"),
    ]


@needs_this_host
def test_axolotl_validates_for_a_gpu_that_is_not_here(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    own = (EXAMPLES / "axolotl" / "quickstart-otr.yaml").read_text()
    recipe.write_text(own.replace("attn_implementation: sdpa", "attn_implementation: fp8"))
    done = otr("check", recipe, "--level", "host", "--gpu", "rtx4090")
    assert (done.exit_code, "requires compute capability sm_90 or higher" in done.stdout) == (1, True)
    assert otr("check", recipe, "--level", "host", "--gpu", "h100").exit_code == 0


def test_doctor_finds_the_host():
    assert_doctor_finds("axolotl")


def test_the_class_has_the_path_that_a_recipe_may_name():
    from otr_plugin.hosts.axolotl import adapter, recipe

    assert f"{adapter.OTRPlugin.__module__}.{adapter.OTRPlugin.__qualname__}" == recipe.CLASS


@needs_this_host
def test_the_command_is_also_one_of_axolotls(monkeypatch, tmp_path):
    """The entry point is the one that tests/command finds in pyproject.toml."""
    import axolotl.cli.plugins
    from axolotl.cli.main import cli
    from click.testing import CliRunner

    entry = EntryPoint("otr", "otr_plugin.command.main:command", "axolotl.cli_commands")
    monkeypatch.setattr(axolotl.cli.plugins, "entry_points", lambda group: [entry])
    monkeypatch.setattr(cli, "_plugin_commands", None)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base_model: m\nsequence_len: 64\n")
    done = CliRunner().invoke(cli, ["otr", "add", str(recipe)])
    assert done.exit_code == 0, done.output
    assert "plugins: [otr]\n" in done.output
    assert CliRunner().invoke(cli, ["otr", "check", str(tmp_path / "none")]).exit_code == 2
    assert "One-Token Rollout for recipes" in CliRunner().invoke(cli, ["--help"]).output
