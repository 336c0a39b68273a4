"""The lock files: every file that an environment installs is pinned by its hash, and they belong to pyproject.toml."""

import re

import pytest

import noxfile
from benchmarks.paths import ROOT

LOCKS = sorted((ROOT / "locks").glob("*.txt"))
GROUPS = noxfile.PYPROJECT["dependency-groups"]
PACKAGE = re.compile(r"([a-z0-9.-]+)==\S+( ; .+)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n")


def names(requirements):
    return {re.match(r"[A-Za-z0-9-]+", requirement)[0].lower() for requirement in requirements}


def locked(name):
    return set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / "locks" / f"{name}.txt").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_has_a_version_and_hashes_and_nothing_else_is_in_the_file(path):
    packages = path.read_text().split("\n", 1)[1]
    assert packages
    assert not PACKAGE.sub("", packages)


@pytest.mark.parametrize("group", GROUPS)
def test_every_package_of_a_dependency_group_is_locked(group):
    assert names(GROUPS[group]) <= locked(group)


@pytest.mark.parametrize("host", noxfile.PYPROJECT["project"]["optional-dependencies"])
def test_every_host_and_what_the_plugin_needs_is_locked(host):
    project = noxfile.PYPROJECT["project"]
    needed = names(project["dependencies"]) | names(project["optional-dependencies"][host])
    assert needed <= locked(host) | locked("torch")


def test_no_environment_has_pytorch_or_a_cuda_library_of_its_own():
    """They would replace the build that was chosen before: that of PyPI, or one for the CPU."""
    shared = locked("torch") | locked("cuda")
    assert {path.stem for path in LOCKS if locked(path.stem) & shared} == {"torch", "torch-cpu", "cuda"}
