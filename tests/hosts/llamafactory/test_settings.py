"""Recipes with `plugins: [otr]` are checked before any work; recipes without it are unaffected."""

import importlib
import re

import pytest
from llamafactory.hparams import get_train_args

from benchmarks.hosts.driver import BIN
from otr_plugin import OTRConfig
from otr_plugin.hosts.llamafactory.recipe import OTHER_LOSSES


def parse(factory, **changes):
    return get_train_args(factory.settings("parsed", **{"plugins": ["otr"]} | changes))


@pytest.mark.parametrize("plugins", [["otr"], ["otr_plugin.OTRPlugin"], "otr"], ids=str)
def test_settings_arrive(factory, plugins):
    model_args, _, _, finetuning_args, _ = parse(factory, plugins=plugins, otr={"samples": 8})
    assert finetuning_args.otr == model_args.otr == OTRConfig(samples=8).model_dump()
    assert parse(factory, plugins=plugins)[3].otr == OTRConfig().model_dump()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples should be greater than or equal to 1, got 0"),
        ({"tempratur": 2}, "unknown key 'tempratur': did you mean 'temperature'?"),
    ],
)
def test_bad_settings_are_explained(factory, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(factory, otr=settings)


@pytest.mark.parametrize("key", OTHER_LOSSES)
def test_a_key_that_selects_another_loss_is_refused_by_name(factory, key):
    with pytest.raises(ValueError, match=rf"`plugins: \[otr\]` trains with One-Token Rollout.*`{key}: "):
        parse(factory, **{key: 0.1 if key == "label_smoothing_factor" else True})


@pytest.mark.parametrize("stage", ["rm", "ppo", "dpo", "kto"])
def test_a_stage_with_a_loss_of_its_own_is_refused(factory, stage):
    with pytest.raises(ValueError, match=f"`stage: {stage}`: set it to sft or pt; the others have losses of their own"):
        parse(factory, stage=stage)


@pytest.mark.parametrize("plugins", [None, [], ["another"]], ids=str)
@pytest.mark.parametrize("extra", ["0", "1"])
def test_settings_without_the_plugin_are_refused(factory, plugins, extra, monkeypatch):
    """Also with ALLOW_EXTRA_ARGS, which makes LLaMA-Factory drop unknown keys."""
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", extra)
    with pytest.raises(
        ValueError,
        match=r"`otr:` is a setting of OTR, but `plugins:` \(.*\) does not name otr, so the run would",
    ):
        parse(factory, plugins=plugins, otr={"samples": 8})


def test_another_plugin_is_refused(factory):
    with pytest.raises(
        ValueError, match=r"the recipe has \['more'\] under `plugins:`, but the only plugin in LLaMA-Factory"
    ):
        parse(factory, plugins=["otr", "more"])


def test_a_trainer_that_cannot_be_patched_stops_the_run(factory, monkeypatch):
    trainer = importlib.import_module("llamafactory.train.sft.trainer")
    monkeypatch.setattr(trainer, "CustomSeq2SeqTrainer", type("Other", (), {}))
    with pytest.raises(RuntimeError, match=r"looked for CustomSeq2SeqTrainer in llamafactory\.train\.sft\.trainer"):
        parse(factory)


def test_a_recipe_without_otr_is_unaffected(factory):
    recipe = str(factory.recipe("unknown", no_such_key=1))
    told = []
    for switch in ("0", "1"):
        command = (str(BIN / "llamafactory-cli"), "train", recipe)
        done = factory.call(*command, check=False, env={"OTR_PLUGIN_AUTOLOAD": switch})
        assert done.returncode != 0
        told.append(done.stderr.strip().splitlines()[-1])
    assert told[0] == told[1] == "ValueError: Some keys are not used by the HfArgumentParser: ['no_such_key']"
