"""What the tests of the hosts' features share: a feature's twin has the result that docs/features.md shows."""

import json

import pytest

from benchmarks.hosts.features import hosts
from benchmarks.hosts.features.twins import Twins
from benchmarks.paths import RESULTS


def fixture_of(host):
    """The fixture `table` of a host's tests."""

    @pytest.fixture(scope="module")
    def table(tmp_path_factory):
        table = Table(host, tmp_path_factory.mktemp("features"))
        yield table
        table.twins.close()

    return table


class Table:
    """The kept results of one host, and fresh ones."""

    def __init__(self, name, folder):
        host = hosts.of(name)
        file = hosts.result_name(name)
        assert file, f"{name}: the installed version has no table"
        self.kept = json.loads((RESULTS / f"features-{file}.json").read_text())["cells"]
        self.twins = Twins(name, host, host.driver(folder))
        self.fresh = {}

    def run(self, name):
        """Returns the feature's cell. The feature that it is added to runs before it, once."""
        if name not in self.fresh:
            beneath = self.twins.host.features[name].on
            reference = None if beneath == name else self.run(beneath)
            self.fresh[name] = self.twins.run(name, reference)
        return self.fresh[name]

    def check(self, name):
        cell = self.run(name)
        told = cell.get("message") or f"loss by {cell['loss']:.1e}, gradient norm by {cell['norm']:.1e}"
        assert cell["result"] == self.kept[name]["result"], told
