"""`pip install otr-plugin[axolotl]` installs the newest tested version of Axolotl; likewise for the other hosts."""

import ast
import re
import zipfile
from email import message_from_bytes

import pytest

from benchmarks.paths import ROOT

PACKAGES = {"axolotl": "axolotl", "llamafactory": "llamafactory", "trl": "trl", "swift": "ms-swift"}


def tried_versions():
    """TRIED of each host's recipe.py, read without importing the host."""
    versions = {}
    for path in (ROOT / "otr_plugin" / "hosts").glob("*/recipe.py"):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "TRIED":
                versions[path.parent.name] = ast.literal_eval(statement.value)
    return versions


TRIED = tried_versions()


def pinned(name):
    """The versions of a package in locks/, whichever way its name is spelled."""
    line = re.compile(rf"^{name.replace('-', '[-_.]')}==([^;\s]+)", re.IGNORECASE | re.MULTILINE)
    return {version for path in (ROOT / "locks").glob("*.txt") for version in line.findall(path.read_text())}


@pytest.fixture(scope="session")
def requirements(wheel):
    """{extra: its requirements}, from the wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = message_from_bytes(archive.read(next(n for n in archive.namelist() if n.endswith("/METADATA"))))
    found = {extra: [] for extra in metadata.get_all("Provides-Extra")}
    for requirement in metadata.get_all("Requires-Dist"):
        if match := re.fullmatch(r"(.*?); extra == '(.*)'", requirement):
            found[match[2]].append(match[1])
    return found


def test_every_host_with_tested_versions_has_an_extra(requirements):
    assert requirements.keys() == TRIED.keys() == PACKAGES.keys()


@pytest.mark.parametrize("host", PACKAGES)
def test_an_extra_is_the_newest_version_that_was_tested(requirements, host):
    newest = max(TRIED[host], key=lambda version: [int(part) for part in version.split(".")])
    assert requirements[host] == [f"{PACKAGES[host]}=={newest}"]


@pytest.mark.parametrize("host", PACKAGES)
def test_every_tested_version_is_pinned_in_an_environment(host):
    assert set(TRIED[host]) <= pinned(PACKAGES[host])


def test_pre_commit_uses_the_pinned_ruff():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([0-9.]+)", hooks)) == pinned("ruff")
