import pytest
from axolotl.integrations.base import PluginManager

from benchmarks.hosts.axolotl import Axolotl


@pytest.fixture(scope="session")
def axolotl(tmp_path_factory):
    return Axolotl(tmp_path_factory.mktemp("axolotl"))


@pytest.fixture
def fresh_plugins(monkeypatch):
    """Axolotl keeps the plugins of earlier recipes in the same process."""
    monkeypatch.setattr(PluginManager, "_instance", None, raising=False)
    PluginManager.get_instance().plugins.clear()
    yield
    PluginManager.get_instance().plugins.clear()
