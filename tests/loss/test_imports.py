"""The specification stands alone, so an error in it and an error in a kernel cannot hide each other."""

import ast

import pytest

from benchmarks.paths import ROOT

REFERENCE = ROOT / "otr_plugin" / "loss" / "reference.py"
MODULES = sorted((ROOT / "otr_plugin").rglob("*.py"))


def imported_names(source):
    """Every name that the source imports, as module.name; relative imports begin with a dot."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", [m for m in MODULES if m != REFERENCE], ids=lambda m: str(m.relative_to(ROOT)))
def test_no_module_of_the_package_imports_the_specification(module):
    assert not {name for name in imported_names(module.read_text()) if "reference" in name.split(".")}


def test_the_specification_imports_only_the_config_from_the_package():
    names = imported_names(REFERENCE.read_text())
    assert {name for name in names if name.startswith((".", "otr_plugin"))} == {"otr_plugin.config.OTRConfig"}


def test_every_form_of_import_is_found():
    source = "import a.reference\ndef f():\n    from ..b import reference\n    from . import c\n"
    assert imported_names(source) == {"a.reference", "..b.reference", "..c"}
