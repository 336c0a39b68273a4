"""The line that runs at every Python start: cheap, quiet, and gone when asked."""

import os
import statistics
import subprocess
import sys

import pytest

from benchmarks.paths import ROOT

PTH = (ROOT / "otr_autoload.pth").read_text()


def fresh(code: str, *flags: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], env=os.environ | env, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


FINDERS = "import sys; print([type(f).__module__ for f in sys.meta_path].count('otr_plugin.autoload'))"


def test_it_is_installed():
    assert fresh(FINDERS) == "1"


def test_it_can_be_switched_off():
    assert fresh(FINDERS, OTR_PLUGIN_AUTOLOAD="0") == "0"


def test_it_imports_nothing():
    without = set(fresh("import sys; print(*sys.modules)", OTR_PLUGIN_AUTOLOAD="0").split())
    with_it = set(fresh("import sys; print(*sys.modules)").split())
    assert with_it - without <= {"otr_plugin", "otr_plugin.autoload"}


def test_it_is_one_line_that_cannot_fail(tmp_path):
    assert PTH.count("\n") == 1
    code = f"import sys; sys.modules['otr_plugin'] = None; sys.modules['otr_plugin.autoload'] = None\n{PTH}"
    fresh(code)


def test_it_costs_about_a_millisecond(tmp_path):
    """Its own share of a start, measured inside: os is there by then, and bytecode is cached."""
    cached = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = f"import os, time; t = time.perf_counter()\n{PTH}\nprint(time.perf_counter() - t)"
    seconds = [float(fresh(code, "-S", **cached)) for _ in range(15)]
    assert statistics.median(seconds[1:]) < 0.002  # 0.5 ms on the machine this was written on


@pytest.mark.parametrize("name", ["json", "axolotl.cli", "axolotl"])
def test_other_imports_are_left_alone(name):
    code = f"import sys; f = [f for f in sys.meta_path if type(f).__module__ == 'otr_plugin.autoload'][0]; print(f.find_spec({name!r}))"  # noqa: E501
    assert fresh(code) == "None"


def test_the_wrap_knows_our_names_only(monkeypatch):
    from types import SimpleNamespace

    from otr_plugin.autoload import know_the_name, know_the_options, miss_the_plugin

    module = SimpleNamespace(load_plugin=lambda name: f"own {name}")
    know_the_name(module)
    assert module.load_plugin("x.Y") == "own x.Y"
    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.axolotl", None)
    with pytest.raises(RuntimeError, match=r"otr_plugin\.OTRPlugin cannot be imported"):
        module.load_plugin("otr")
    know_the_name(SimpleNamespace())  # a host whose internals changed: nothing to add to, and nothing breaks
    know_the_options(SimpleNamespace(AXOLOTL_CONFIG_CLI_OPTIONS=[1]))
    miss_the_plugin(SimpleNamespace())


def test_a_start_is_not_slowed(record_property, tmp_path):
    """Whole starts of what is compiled already, as an installed package is, with and without, in turn.

    In processor time, so that other work on the machine does not count.
    """
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    fresh("", OTR_PLUGIN_AUTOLOAD="1", **compiled)
    assert list(tmp_path.rglob("autoload.*.pyc"))
    resource = pytest.importorskip("resource", reason="only Unix tells a child's processor time")

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    took = {"0": [], "1": []}
    for _ in range(10):
        for switch, seconds in took.items():
            start = spent()
            fresh("", OTR_PLUGIN_AUTOLOAD=switch, **compiled)
            seconds.append(spent() - start)
    difference = statistics.median(a - b for a, b in zip(took["1"], took["0"], strict=True))
    record_property("milliseconds", difference * 1e3)
    assert difference < 0.005


def test_where_a_host_cannot_be_reached_its_otr_recipes_are_refused(monkeypatch):
    from types import SimpleNamespace

    from otr_plugin.autoload import AWAITED

    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.llamafactory", None)
    module = SimpleNamespace(read_args=lambda args=None: args)
    AWAITED["llamafactory.hparams.parser"](module)
    AWAITED["llamafactory.train.sft.trainer"](SimpleNamespace())
    assert module.read_args({"stage": "sft", "plugins": None}) == {"stage": "sft", "plugins": None}
    assert module.read_args(["--stage", "sft"]) == ["--stage", "sft"]
    for recipe in ({"plugins": ["otr"]}, {"otr": {}}, {"plugins": ["otr_plugin.OTRPlugin"]}):
        with pytest.raises(RuntimeError, match="otr: LLaMA-Factory cannot train with OTR: ModuleNotFoundError"):
            module.read_args(recipe)


def test_where_trl_cannot_be_reached_its_otr_recipes_are_refused(monkeypatch, tmp_path):
    """Whatever became of its parser's methods: plain SFT would be trained by a script that drops unknown keys."""
    from types import SimpleNamespace

    from otr_plugin.autoload import AWAITED

    class TrlParser:
        pass

    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.trl", None)
    AWAITED["trl.scripts.utils"](SimpleNamespace(TrlParser=TrlParser))
    recipe = tmp_path / "recipe.yaml"
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(recipe)])
    recipe.write_text("plugins: another\nseed: 1\n")
    TrlParser()
    for text in ("plugins: [otr]", "otr: {}", "plugins: otr"):
        recipe.write_text(text)
        with pytest.raises(RuntimeError, match="otr: TRL cannot train with OTR: ModuleNotFoundError"):
            TrlParser()
