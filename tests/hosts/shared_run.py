"""`otr share` on a run that a host has really made."""

import json
import os
import tempfile
from contextlib import chdir
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
    assert record["seconds"] > 0 and record["peak_memory"]["process"] > 1e8
    with tempfile.TemporaryDirectory() as place, chdir(place):
        done = otr("share", run, "-o", "shared", "--json")
        assert (done.exit_code, done.json["missing"]) == (0, []), done.stderr
        shared = Path("shared")
        recipe = yaml.safe_load((shared / "recipe.yaml").read_text())
        assert {key: recipe[key] for key in expected} == expected
        assert str(run.parent) not in "".join(path.read_text() for path in shared.iterdir())
        for name in ("model_info", "dataset_info"):
            sources = json.loads((shared / "run.json").read_text())["meta_info"][name]
            assert all(source["files"] for source in sources.values()) and sources
        assert otr("share", "--verify", shared).exit_code == 3, "models and data are not here"
        _link(record, shared)
        recipes = sorted(shared.glob("*.yaml"))
        assert [path.name for path in recipes] == ["recipe-without-otr.yaml", "recipe.yaml"]
        for level in ("static", "host"):
            done = otr("check", *recipes, "--level", level, "--json")
            assert done.exit_code == 0, done.stdout
        settings = [report["settings"] for report in done.json["recipes"]]
        assert settings == [None, record["otr"]]
        done = otr("share", "--verify", shared)
        assert done.exit_code == 0, done.stdout


def _link(record, shared):
    """Put the models and data where the placeholders are."""
    described = json.loads((shared / "run.json").read_text())
    names = [name for group in ("model_info", "dataset_info") for name in described["meta_info"][group]]
    real = [resource["name"] for resource in record["resources"]]
    for source in real:
        (name,) = [name for name in names if Path(name).name == Path(source).name]
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source, name)
