"""The import hook that runs at every Python start: what it costs, how it is switched off, and what it patches."""

import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.paths import ROOT
from otr_plugin import autoload
from otr_plugin.hosts import patching

PTH = (ROOT / "otr_autoload.pth").read_text()
COUNT_FINDERS = "import sys; print([type(f).__module__ for f in sys.meta_path].count('otr_plugin.autoload'))"
HOSTS = sorted({**autoload.AT_START, **autoload.TRAINERS})


def python(code: str, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=True)


def quiet_python(code: str, *flags: str, **env: str) -> str:
    done = python(code, *flags, **env)
    assert done.stderr == ""
    return done.stdout.strip()


def patch(host: str, module: ModuleType) -> None:
    import_module(f"otr_plugin.hosts.{host}.start").PATCHES[module.__name__](module)


def test_the_finder_is_installed():
    assert quiet_python(COUNT_FINDERS) == "1"


def test_a_variable_switches_the_finder_off():
    assert quiet_python(COUNT_FINDERS, OTR_PLUGIN_AUTOLOAD="0") == "0"


def test_a_start_imports_nothing_but_the_finders_module():
    without = set(quiet_python("import sys; print(*sys.modules)", OTR_PLUGIN_AUTOLOAD="0").split())
    with_finder = set(quiet_python("import sys; print(*sys.modules)").split())
    assert with_finder - without <= {"otr_plugin", "otr_plugin.autoload"}


def test_a_broken_installation_does_not_break_a_start():
    assert PTH.count("\n") == 1
    broken = "import sys; sys.modules['otr_plugin'] = None; sys.modules['otr_plugin.autoload'] = None\n"
    quiet_python(broken + PTH)


def test_the_pth_line_takes_about_a_millisecond(tmp_path):
    """Timed inside the process, where os is imported already and bytecode is cached."""
    cached = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    code = f"import os, time; t = time.perf_counter()\n{PTH}\nprint(time.perf_counter() - t)"
    seconds = [float(quiet_python(code, "-S", **cached)) for _ in range(15)]
    assert min(seconds) < 0.002  # 0.4 ms on the machine this was written on; other processes only add to it


def test_a_start_takes_no_measurable_time_more(record_property, tmp_path):
    """Whole starts with and without the finder, in turn; processor time, so that other processes do not count."""
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    quiet_python("", OTR_PLUGIN_AUTOLOAD="1", **compiled)
    assert list(tmp_path.rglob("autoload.*.pyc"))
    resource = pytest.importorskip("resource", reason="only Unix reports a child's processor time")

    def processor_time():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    seconds = {"0": [], "1": []}
    for _ in range(10):
        for switch, measured in seconds.items():
            start = processor_time()
            quiet_python("", OTR_PLUGIN_AUTOLOAD=switch, **compiled)
            measured.append(processor_time() - start)
    difference = statistics.median(a - b for a, b in zip(seconds["1"], seconds["0"], strict=True))
    record_property("milliseconds", difference * 1e3)
    assert difference < 0.005


@pytest.mark.parametrize("name", ["json", "axolotl.cli", "axolotl"])
def test_the_finder_ignores_modules_outside_its_tables(name):
    assert autoload.Finder(autoload.AT_START).find_spec(name) is None


@pytest.mark.parametrize("host", HOSTS)
def test_start_patches_exactly_the_modules_of_the_tables(host):
    modules = {*autoload.AT_START.get(host, ()), *autoload.TRAINERS.get(host, ())}
    assert modules == set(import_module(f"otr_plugin.hosts.{host}.start").PATCHES)


@pytest.mark.parametrize("host", HOSTS)
def test_start_imports_neither_torch_nor_the_host(host):
    code = f"import otr_plugin.hosts.{host}.start, sys; print(*sys.modules)"
    loaded = set(quiet_python(code).split())
    assert not loaded & {"torch", *HOSTS}


@pytest.mark.parametrize("host", HOSTS)
def test_every_patch_says_why(host):
    for function in import_module(f"otr_plugin.hosts.{host}.start").PATCHES.values():
        assert (function.__doc__ or "").strip(), function


AXOLOTL_STUB = """
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec


class Stub(MetaPathFinder, Loader):
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "axolotl" else None

    def exec_module(self, module):
        module.load_plugin = lambda name: name


sys.meta_path.append(Stub())
import axolotl.integrations.base
"""


def test_trace_prints_what_was_patched_by_whom_and_why():
    (line,) = python(AXOLOTL_STUB, OTR_PLUGIN_TRACE="1").stderr.splitlines()
    assert line.startswith("otr trace, process ")
    assert line.endswith(
        "otr_plugin.hosts.axolotl.start.patch_load_plugin replaced axolotl.integrations.base.load_plugin: "
        "the short name otr, which is not module.Class"
    )
    assert python(AXOLOTL_STUB, OTR_PLUGIN_TRACE="0").stderr == ""
    assert python(AXOLOTL_STUB).stderr == ""


def test_only_otrs_names_load_the_plugin(monkeypatch):
    module = ModuleType("axolotl.integrations.base")
    module.load_plugin = lambda name: f"Axolotl's {name}"
    patch("axolotl", module)
    assert module.load_plugin("x.Y") == "Axolotl's x.Y"
    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.axolotl.adapter", None)
    with pytest.raises(RuntimeError, match=r"otr_plugin\.OTRPlugin cannot be imported"):
        module.load_plugin("otr")


@pytest.mark.parametrize("name", autoload.AT_START["axolotl"])
def test_an_axolotl_module_without_the_patched_name_stays_as_it_is(name):
    module = ModuleType(name)
    before = dict(vars(module))
    patch("axolotl", module)
    assert vars(module) == before


def test_an_option_table_of_another_form_stays_as_it_is():
    module = ModuleType("axolotl.cli.config_options")
    module.AXOLOTL_CONFIG_CLI_OPTIONS = [1]
    patch("axolotl", module)
    assert module.AXOLOTL_CONFIG_CLI_OPTIONS == [1]


def test_if_llamafactory_cannot_be_patched_recipes_with_otr_are_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.llamafactory.adapter", None)
    parser = ModuleType("llamafactory.hparams.parser")
    parser.read_args = lambda args=None: args
    patch("llamafactory", parser)
    patch("llamafactory", ModuleType("llamafactory.train.sft.trainer"))
    assert parser.read_args({"stage": "sft", "plugins": None}) == {"stage": "sft", "plugins": None}
    assert parser.read_args(["--stage", "sft"]) == ["--stage", "sft"]
    for recipe in ({"plugins": ["otr"]}, {"otr": {}}, {"plugins": ["otr_plugin.OTRPlugin"]}):
        with pytest.raises(RuntimeError, match="otr: LLaMA-Factory cannot train with OTR: ModuleNotFoundError"):
            parser.read_args(recipe)


def test_if_trl_cannot_be_patched_recipes_with_otr_are_refused(monkeypatch, tmp_path):
    """TRL's own script drops unknown keys, and would train plain SFT."""
    module = ModuleType("trl.scripts.utils")
    module.TrlParser = type("TrlParser", (), {})
    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.trl.adapter", None)
    patch("trl", module)
    recipe = tmp_path / "recipe.yaml"
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(recipe)])
    recipe.write_text("plugins: another\nseed: 1\n")
    module.TrlParser()
    for text in ("plugins: [otr]", "otr: {}", "plugins: otr"):
        recipe.write_text(text)
        with pytest.raises(RuntimeError, match="otr: TRL cannot train with OTR: ModuleNotFoundError"):
            module.TrlParser()


@pytest.fixture
def module():
    module = ModuleType("a_host")
    module.function = len
    module.Parent = type("Parent", (), {"method": staticmethod(len), "__module__": "a_host"})
    module.Child = type("Child", (module.Parent,), {"__module__": "a_host"})
    yield module
    patching.undo("a_host")


def test_undo_restores_what_was_replaced(module):
    static = vars(module.Parent)["method"]
    patching.replace(module, "function", str, "a reason")
    patching.replace(module, "function", int, "another reason")
    patching.replace(module.Parent, "method", staticmethod(str), "a reason")
    patching.replace(module.Child, "method", staticmethod(int), "a reason")
    assert (module.function, module.Parent.method, module.Child.method) == (int, str, int)
    patching.undo("a_host")
    assert module.function is len
    assert vars(module.Parent)["method"] is static
    assert "method" not in vars(module.Child)


def test_undo_keeps_what_another_package_put_on_top(module, monkeypatch, capsys):
    monkeypatch.setenv("OTR_PLUGIN_TRACE", "1")
    patching.replace(module, "function", str, "a reason")
    module.function = int
    patching.undo("a_host")
    assert module.function is int
    assert "left a_host.function alone: another package has replaced it since" in capsys.readouterr().err


# Printed by an audit hook that is added before the `.pth` line runs: what Python itself reports of files, processes,
# sockets and imports (PEP 578).
AUDITED = """
import sys
seen = []
def note(event, arguments):
    name = str(arguments[0]) if arguments and not isinstance(arguments[0], int) else ""
    seen.append((event, name.split(" at 0x")[0]))  # an object's address differs between processes
sys.addaudithook(note)
{line}
import json, email.message, sqlite3, concurrent.futures, importlib.metadata, unittest.mock
print(json.dumps(seen))
"""


def events(line: str, **env: str) -> list[list[str]]:
    """The audit events of a process that runs `line` and then imports modules of the standard library."""
    compiled = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    seen: list[list[str]] = json.loads(quiet_python(AUDITED.format(line=line), "-S", **compiled, **env))
    return seen


def test_in_a_process_that_imports_no_host_the_autoload_reads_its_own_module_and_does_nothing_else():
    """No other file is opened, no process started, no socket opened, nothing written, as Python's audit events show."""
    more = Counter(map(tuple, events(PTH))) - Counter(map(tuple, events("pass")))
    imported = {name for event, name in more if event == "import"}
    read = {name for event, name in more if event in ("open", "os.listdir")}
    assert imported == {"otr_plugin", "otr_plugin.autoload"}
    assert read
    assert all(Path(name).is_relative_to(ROOT) for name in read)
    assert {event for event, _ in more} <= {"import", "open", "os.listdir", "compile", "exec", "marshal.loads"}
