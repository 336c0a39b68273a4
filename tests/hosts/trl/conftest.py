import pytest

from benchmarks.hosts.trl import TRL


@pytest.fixture(scope="session")
def trl(tmp_path_factory):
    return TRL(tmp_path_factory.mktemp("trl"))
