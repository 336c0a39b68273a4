import importlib
import warnings

import pytest

from benchmarks.hosts.swift import Swift

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what a host's import warns of is its own
    importlib.import_module("swift.arguments")


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    return Swift(tmp_path_factory.mktemp("swift"))
