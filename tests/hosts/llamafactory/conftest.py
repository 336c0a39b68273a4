import pytest

from benchmarks.hosts.llamafactory import LlamaFactory


@pytest.fixture(scope="session")
def factory(tmp_path_factory):
    return LlamaFactory(tmp_path_factory.mktemp("llamafactory"))
