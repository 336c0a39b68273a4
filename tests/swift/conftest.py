import pytest

from benchmarks.swift_host import Swift


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    return Swift(tmp_path_factory.mktemp("swift"))
