"""example_configs/axolotl: Axolotl validates every recipe and keeps every key."""

import pytest
import yaml
from axolotl.cli.config import prepare_plugins
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault

from benchmarks.paths import EXAMPLES
from otr_plugin import OTRConfig

RECIPES = EXAMPLES / "axolotl"
NAMES = sorted(path.name.removesuffix("-otr.yaml") for path in RECIPES.glob("*-otr.yaml"))
CARD = {"bf16": True, "tf32": True, "fp8": False, "n_gpu": 1, "compute_capability": "sm_89"}


@pytest.mark.parametrize("method", ["sft", "otr"])
@pytest.mark.parametrize("name", NAMES)
def test_axolotl_keeps_every_key(name, method, fresh_plugins):
    """Axolotl drops unknown keys without a message."""
    said = yaml.safe_load((RECIPES / f"{name}-{method}.yaml").read_text())
    cfg = DictDefault(said)
    prepare_plugins(cfg)
    understood = validate_config(cfg, capabilities=CARD, env_capabilities={"torch_version": "2.13.0"})
    assert said.keys() <= understood.keys()
    if method == "otr":
        assert OTRConfig(**understood.otr) == OTRConfig(), "an example uses the defaults"
