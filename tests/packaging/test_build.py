"""The files in the sdist and in the wheel, and that building them twice gives the same bytes."""

import os
import subprocess
import tarfile
import zipfile

import pytest

from benchmarks.paths import ROOT

ONLY_IN_GIT = (".ci/", ".github/", ".pre-commit-config.yaml")


def names_in(sdist):
    with tarfile.open(sdist) as archive:
        return {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}


def test_sdist_holds_every_file_of_the_project(sdist):
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout, so git cannot list the project's files")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    project = {name for name in listed if (ROOT / name).exists() and not name.startswith(ONLY_IN_GIT)}
    assert names_in(sdist) == project | {"PKG-INFO"}


def test_sdist_holds_what_the_build_the_tests_and_the_examples_need(sdist):
    names = names_in(sdist)
    files = {"otr_autoload.pth", "pyproject.toml", "noxfile.py", "Makefile", "README.md", "CHANGELOG.md", "LICENSE"}
    assert files <= names
    for folder in ("otr_plugin", "tests", "benchmarks", "benchmarks/quickstart", "example_configs", "locks"):
        assert any(name.startswith(f"{folder}/") for name in names), folder


def test_wheel_holds_the_modules_and_nothing_else(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "otr_plugin").rglob("*.py")}
    dist_info = "otr_plugin-{}.dist-info/".format(wheel.name.split("-")[1])
    metadata = {
        f"{dist_info}{name}" for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    }
    with zipfile.ZipFile(wheel) as archive:
        others = {"otr_plugin/py.typed", "otr_plugin/command/comparison/page.css", "otr_autoload.pth"}
        assert set(archive.namelist()) == modules | metadata | others


def test_wheel_from_the_sdist_is_the_wheel_from_the_checkout(builder, wheel, tmp_path):
    assert builder.wheel(ROOT, tmp_path).read_bytes() == wheel.read_bytes()


def test_another_folder_umask_and_mtime_give_the_same_bytes(builder, sdist, wheel, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "elsewhere", filter="data")
    source = next((tmp_path / "elsewhere").iterdir())
    for path in source.rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode & 0o700)
            os.utime(path, (10**9, 10**9))
    again = builder.sdist(source, tmp_path / "sdist", umask=0o077)
    assert again.read_bytes() == sdist.read_bytes()
    assert builder.wheel(again, tmp_path / "wheel", umask=0o077).read_bytes() == wheel.read_bytes()
