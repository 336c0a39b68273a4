"""`otr share` on a run that a host has really made."""

import json
import os
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import yaml

from otr_plugin.hosts.run_record import RECORD_FILE
from tests.command.driver import otr


def assert_shared(run, host, expected):
    """The shared recipe has the values that the run trained with, and the host reads it with OTR and without.

    `expected` are some keys of the recipe as resolved: those that the command line has changed.
    """
    record = json.loads((run / RECORD_FILE).read_text())
    assert (record["host"], record["status"], record["processes"]) == (host, "finished", 1)
    assert record["packages"].keys() >= {"otr-plugin", "torch", "transformers"}
    assert record["seconds"] > 0
    assert record["peak_memory"]["process"] > 1e8
    with tempfile.TemporaryDirectory() as place, _working_in(place):
        done = otr("share", run, "-o", "shared", "--json")
        assert (done.exit_code, done.json["missing"]) == (0, []), done.stderr
        shared = Path("shared")
        recipe = yaml.safe_load((shared / "recipe.yaml").read_text())
        assert {key: recipe[key] for key in expected} == expected
        assert str(run.parent) not in "".join(path.read_text() for path in shared.iterdir())
        for name in ("model_info", "dataset_info"):
            sources = json.loads((shared / "run.json").read_text())["meta_info"][name]
            assert sources
            assert all(source["files"] for source in sources.values())
        assert otr("share", "--verify", shared).exit_code == 3, "models and data are not here"
        _link(record, shared)
        recipes = sorted(shared.glob("*.yaml"))
        assert [path.name for path in recipes] == ["recipe-without-otr.yaml", "recipe.yaml"]
        for level in ("static", "host"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a host's own warnings are no matter of this package
                done = otr("check", *recipes, "--level", level, "--json")
            assert done.exit_code == 0, done.stdout
        settings = [report["settings"] for report in done.json["recipes"]]
        assert settings == [None, record["otr"]]
        done = otr("share", "--verify", shared)
        assert done.exit_code == 0, done.stdout


@contextmanager
def _working_in(folder):
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _link(record, shared):
    """Put the models and data where the placeholders are."""
    described = json.loads((shared / "run.json").read_text())
    groups = ("model_info", "dataset_info", "other_info")
    names = [name for group in groups for name in described["meta_info"][group]]
    for source in [resource["name"] for resource in record["resources"]]:
        (name,) = [name for name in names if Path(name).name == Path(source).name]
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).symlink_to(source)
