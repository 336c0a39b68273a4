"""Recipes with `plugins: [otr]` are checked before any work."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from axolotl.cli.config import load_cfg
from axolotl.integrations.base import PluginManager, load_plugin

from otr_plugin import OTRConfig
from otr_plugin.hosts.axolotl.adapter import OTRPlugin
from otr_plugin.hosts.axolotl.recipe import OTHER_LOSSES
from otr_plugin.hosts.resume import to_save

pytestmark = pytest.mark.usefixtures("fresh_plugins")


def load(axolotl, **changes):
    return load_cfg(str(axolotl.recipe("config", **{"plugins": ["otr"]} | changes)))


@pytest.mark.parametrize("name", ["otr", "otr_plugin.OTRPlugin"])
def test_both_names_are_the_plugin(name):
    assert isinstance(load_plugin(name), OTRPlugin)


def test_defaults_need_no_block(axolotl):
    assert load(axolotl).otr == OTRConfig().model_dump(exclude_none=True)


def test_settings_arrive(axolotl):
    cfg = load(axolotl, otr={"samples": 8, "beta": -0.5})
    assert (cfg.otr.samples, cfg.otr.beta, cfg.otr.temperature) == (8, -0.5, 1.3)


def test_a_ray_worker_must_not_leave_the_plugin_out(axolotl):
    with pytest.raises(ValueError, match="with `use_ray`: a worker that lacks this package"):
        load(axolotl, plugins=["otr_plugin.OTRPlugin"], use_ray=True)
    assert load(axolotl, use_ray=True).plugins == ["otr"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples should be greater than or equal to 1, got 0"),
        ({"tempratur": 2}, "unknown key 'tempratur': did you mean 'temperature'?"),
        ({"objective": "ppo"}, "objective should be 'otr', 'dft', 'power', 'eaft' or 'sft', got 'ppo'"),
    ],
)
def test_bad_settings_are_explained(axolotl, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(axolotl, otr=settings)


VALUES = {"rl": "dpo", "orpo_alpha": 0.1, "kd_trainer": 1.0, "label_smoothing_factor": 0.1, "trainer_cls": "a.B"}
WITH = {
    "liger_fused_linear_cross_entropy": ["axolotl.integrations.liger.LigerPlugin"],
    "liger_cross_entropy": ["axolotl.integrations.liger.LigerPlugin"],
    "liger_use_token_scaling": ["axolotl.integrations.liger.LigerPlugin"],
    "cut_cross_entropy": ["axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"],
    "kd_trainer": ["axolotl.integrations.kd.KDPlugin"],
}


@pytest.mark.parametrize("key", OTHER_LOSSES)
def test_a_key_that_selects_another_loss_is_refused_by_name(axolotl, key):
    changes = {key: VALUES.get(key, True), "plugins": ["otr", *WITH.get(key, [])]}
    with pytest.raises(ValueError, match=rf"(?s)`plugins: \[otr\]` trains with One-Token Rollout.*`{key}: "):
        load(axolotl, **changes)


def test_a_plugin_with_a_loss_of_its_own_is_refused_by_name(axolotl):
    name = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
    with pytest.raises(ValueError, match=rf"`{re.escape(name)}` in plugins: remove the plugin"):
        load(axolotl, plugins=["otr", name])


@pytest.mark.parametrize("key", ["otr", "otr.samples"])
@pytest.mark.parametrize("plugins", [None, [], ["axolotl.integrations.liger.LigerPlugin"]], ids=str)
def test_settings_without_the_plugin_are_refused(axolotl, plugins, key):
    message = rf"`{key}:` is a setting of OTR, but `plugins:` .* does not name otr.*Add `plugins: \[otr\]`"
    with pytest.raises(ValueError, match=message):
        load(axolotl, plugins=plugins, **{key: {"samples": 8}})


def test_a_recipe_without_otr_is_unaffected(axolotl):
    assert "otr" not in load(axolotl, plugins=None)


def test_a_plain_recipe_that_resumes_a_checkpoint_of_otr_warns(axolotl, tmp_path, monkeypatch):
    from axolotl.utils import logging

    saved = tmp_path / "checkpoint-3"
    saved.mkdir()
    state = {"stateful_callbacks": {"OTR": to_save(OTRConfig(beta=-0.5), seed=3)}}
    (saved / "trainer_state.json").write_text(json.dumps(state))
    warnings = []
    monkeypatch.setattr(logging, "get_logger", lambda name: SimpleNamespace(warning=warnings.append))
    load(axolotl, plugins=None, resume_from_checkpoint=str(saved))
    assert len(warnings) == 1
    assert "checkpoint-3 was saved by a run with OTR" in warnings[0]
    assert "'beta': -0.5" in warnings[0]
    load(axolotl, resume_from_checkpoint=str(saved))
    load(axolotl, plugins=None)
    assert len(warnings) == 1


def test_ligers_other_kernels_stay(axolotl):
    cfg = load(
        axolotl,
        plugins=["otr", "axolotl.integrations.liger.LigerPlugin"],
        liger_rope=True,
        liger_rms_norm=True,
        liger_glu_activation=True,
    )
    assert cfg.liger_rope


def test_an_import_error_of_the_adapter_stops_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.axolotl.adapter", None)
    for name in ("otr", "otr_plugin.OTRPlugin"):
        with pytest.raises(RuntimeError, match=r"otr_plugin\.OTRPlugin cannot be imported"):
            PluginManager.get_instance().register(name)


def test_autoload_can_be_switched_off():
    code = "from axolotl.integrations.base import load_plugin; load_plugin('otr')"
    done = subprocess.run([sys.executable, "-c", code], env={"OTR_PLUGIN_AUTOLOAD": "0"}, capture_output=True, text=True, check=False)  # fmt: skip # noqa: E501
    assert "ValueError: not enough values to unpack" in done.stderr
