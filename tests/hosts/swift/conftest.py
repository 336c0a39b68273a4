import importlib
import warnings

import pytest

from benchmarks.hosts.swift import Swift

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # warnings of the host's own imports
    importlib.import_module("swift.arguments")


@pytest.fixture(scope="session")
def swift(tmp_path_factory):
    return Swift(tmp_path_factory.mktemp("swift"))
