import pytest

from benchmarks.axolotl_host import Axolotl


@pytest.fixture(scope="session")
def axolotl(tmp_path_factory):
    return Axolotl(tmp_path_factory.mktemp("axolotl"))
