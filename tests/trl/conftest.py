import pytest

from benchmarks.trl_host import TRL


@pytest.fixture(scope="session")
def trl(tmp_path_factory):
    return TRL(tmp_path_factory.mktemp("trl"))
