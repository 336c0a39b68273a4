"""Axolotl's validation accepts every key of every recipe in example_configs/axolotl."""

import pytest
import yaml
from axolotl.cli.config import prepare_plugins
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault

from benchmarks.paths import EXAMPLES
from otr_plugin import OTRConfig

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
