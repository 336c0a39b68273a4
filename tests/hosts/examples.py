"""What a run of an example must leave, whichever host runs it."""

import yaml

from benchmarks.gallery.miniature import miniature
from benchmarks.gallery.recipes import recipes
from otr_plugin.command.comparison import run

DEFAULTS = "OTR is active: objective otr (256 samples"
# The third recipe of the quickstart differs from the second in one setting, which tests/test_examples.py reads.
METHODS = ("sft", "otr")


def assert_objective_of(path, printed):
    """Asserts that the output announces the objective after which the recipe is named."""
    assert (DEFAULTS in printed) == path.stem.endswith("-otr")


def written_in_miniature(host, folder):
    """Writes the host's recipes of the gallery in miniature, and returns their paths."""
    folder.mkdir()
    paths = []
    for path in recipes(host):
        paths.append(folder / path.name)
        paths[-1].write_text(yaml.safe_dump(miniature(host, path, folder), sort_keys=False))
    assert paths
    return paths


def assert_all_trained_with_otr(host, paths):
    for path in paths:
        found = run.read(path.with_suffix(""))  # its output_dir
        assert found.host == host
        assert [entry["step"] for entry in found.log] == [1, 2]
        for entry in found.log:
            assert 3 < entry["otr/nll"] < 6  # of a random model with 64 tokens
            assert 0 < entry["otr/hit_rate"] < 0.1
            assert entry["grad_norm"] > 0
