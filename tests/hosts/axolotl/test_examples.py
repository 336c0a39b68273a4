"""Axolotl's validation accepts every key of every recipe in its examples; those of the gallery train in miniature."""

import sys

import pytest
import yaml
from axolotl.cli.config import prepare_plugins
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault

from benchmarks.hosts.axolotl import ENV
from benchmarks.hosts.driver import run_command
from benchmarks.paths import EXAMPLES
from otr_plugin import OTRConfig
from tests.hosts.examples import assert_all_trained_with_otr, written_in_miniature

RECIPES = sorted((EXAMPLES / "axolotl").glob("*.yaml"))
CARD = {"bf16": True, "tf32": True, "fp8": False, "n_gpu": 1, "compute_capability": "sm_89"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_axolotl_accepts_every_key(path, fresh_plugins):
    """Axolotl drops a key that it does not recognise without a warning."""
    recipe = yaml.safe_load(path.read_text())
    cfg = DictDefault(recipe)
    prepare_plugins(cfg)
    validated = validate_config(cfg, capabilities=CARD, env_capabilities={"torch_version": "2.13.0"})
    assert recipe.keys() <= validated.keys()
    assert ("otr" in recipe) == ("-otr" in path.stem)
    if "otr" in recipe:
        changed = {"nll_weight": 0.1} if path.stem.endswith("-otr-nll") else {}
        assert OTRConfig(**validated.otr) == OTRConfig(**changed), "every other setting has its default"


def test_the_gallery_trains_in_miniature(axolotl):
    """In one process, because importing Axolotl takes longer than the training."""
    paths = written_in_miniature("axolotl", axolotl.folder / "gallery")
    script = "import sys; from axolotl.cli.train import do_cli; [do_cli(path) for path in sys.argv[1:]]"
    run_command(sys.executable, "-c", script, *map(str, paths), folder=axolotl.folder, env=ENV, check=True)
    assert_all_trained_with_otr("axolotl", paths)
