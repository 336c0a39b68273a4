"""Reads recipes with the reader of the host in whose folder a test is."""

import pytest

from benchmarks.fuzz.readers import READERS
from benchmarks.fuzz.search import Checker


@pytest.fixture(scope="module")
def checker(request, tmp_path_factory):
    """Compares readings with what a person reads, as `make fuzz` does for many more recipes."""
    checker = Checker(request.path.parent.name, tmp_path_factory.mktemp("fuzz"))
    yield checker
    checker.close()


@pytest.fixture(scope="module")
def reader(request, tmp_path_factory):
    name = request.path.parent.name
    reader = READERS[name](name, tmp_path_factory.mktemp("reader"))
    yield reader
    reader.close()
