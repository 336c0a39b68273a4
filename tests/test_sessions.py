"""Every test runs: each test file belongs to one session, and `make test` runs all sessions."""

import re

import pytest

import noxfile
from benchmarks.paths import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
SESSIONS = set(noxfile.nox.options.sessions)


def variable(name):
    return re.search(rf"^{name} := (.*)$", MAKEFILE, re.MULTILINE)[1].split()


def files_of(session):
    found = [path for pattern in noxfile.TESTS[session] for path in ROOT.glob(pattern)]
    return [file for path in found for file in ([path] if path.is_file() else path.rglob("test_*.py"))]


def test_every_test_file_belongs_to_one_session():
    files = sorted(file for session in noxfile.TESTS for file in files_of(session))
    assert files == sorted((ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("session", noxfile.TESTS)
def test_every_path_in_the_session_table_holds_tests(session):
    assert all(list(ROOT.glob(pattern)) for pattern in noxfile.TESTS[session])
    assert files_of(session)


def test_every_session_with_tests_runs_by_default():
    assert set(noxfile.TESTS) | {"lint", "trl-1.9"} == SESSIONS


def test_make_test_runs_every_session():
    assert sorted(variable("SESSIONS")) == sorted(SESSIONS)
    source = (ROOT / "noxfile.py").read_text()
    without_environment = re.findall(r'venv_backend="none"\)\ndef (\w+)', source)
    assert {name.replace("trl_in_axolotl", "trl-1.9") for name in without_environment} == set(variable("IN_AXOLOTLS"))
