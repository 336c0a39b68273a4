"""Recipes with `loss_type: otr` are checked before any weight is loaded; recipes without it are unaffected."""

import importlib
import os
import re
import sys
from types import ModuleType, SimpleNamespace

import pytest
from swift.arguments import RLHFArguments, SftArguments
from swift.loss import loss_map
from swift.trainers import TrainerFactory

from otr_plugin import OTRConfig
from otr_plugin.hosts.swift import adapter
from otr_plugin.hosts.swift.start import PATCHES

FACTORY = "swift.trainers.trainer_factory"


@pytest.fixture
def parse(swift, monkeypatch):
    def parse(kind=SftArguments, env=None, **changes):
        recipe = swift.settings("parsed", **{"loss_type": "otr"} | changes)
        for name, value in (recipe.pop("ENV") | (env or {})).items():
            monkeypatch.setenv(name, str(value))  # as `swift sft` does, which turns every value into text
        return kind(**recipe)

    return parse


@pytest.mark.parametrize(
    ("env", "config"),
    [
        ({}, {}),
        ({"OTR_SAMPLES": 8, "OTR_BETA": -1e-05, "OTR_TOP_K": None}, {"samples": 8, "beta": -1e-05}),
        ({"OTR_TOP_K": 20, "OTR_TOP_P": 0.9, "OTR_BASELINE": "mean"}, {"top_k": 20, "top_p": 0.9, "baseline": "mean"}),
        ({"OTR_CHUNK_TOKENS": 512, "OTR_KERNEL": "torch"}, {"chunk_tokens": 512, "kernel": "torch"}),
        ({"OTR_CHUNK_TOKENS": "auto", "OTR_ESTIMATOR": "exact"}, {"estimator": "exact"}),
        ({"OTR_SAMPLES": 8, "OTR_PLUGIN_AUTOLOAD": 1, "OTR_HOME": "another program's"}, {"samples": 8}),
    ],
    ids=str,
)
def test_settings_arrive(parse, env, config):
    parse(env=env)
    assert adapter.settings(os.environ) == OTRConfig(**config)
    assert loss_map["otr"] is adapter.OTRLoss


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"OTR_SAMPLES": 0}, "samples should be greater than or equal to 1, got 0, as OTR_SAMPLES"),
        ({"OTR_SAMPLES": True}, "samples should be a whole number, got 'True', as OTR_SAMPLES"),
        ({"OTR_TEMPERATUR": 2}, "OTR_TEMPERATUR: write OTR_TEMPERATURE"),
        ({"otr_samples": 2}, "otr_samples: write OTR_SAMPLES"),
        ({"OTRSAMPLES": 2}, "OTRSAMPLES: write OTR_SAMPLES"),
        ({"OTR": {"samples": 16}}, "OTR: the variables are OTR_OBJECTIVE, OTR_ESTIMATOR, OTR_SAMPLES"),
    ],
    ids=str,
)
@pytest.mark.parametrize("loss_type", ["otr", None])
def test_bad_settings_are_explained(parse, env, message, loss_type):
    if loss_type is None and "OTR_SAMPLES" in env:
        message = "OTR_SAMPLES: but `loss_type: None`, so the run would train without OTR"
    with pytest.raises(ValueError, match=re.escape(f"otr: the environment: {message}")):
        parse(env=env, loss_type=loss_type)


@pytest.mark.parametrize(
    ("key", "value", "fix"),
    [
        ("enable_dft_loss", True, "set it to false; `OTR_OBJECTIVE: dft` is that loss"),
        ("enable_channel_loss", True, "set it to false"),
        ("label_smoothing_factor", 0.1, "set it to 0"),
        ("task_type", "embedding", "set it to causal_lm"),
        ("task_type", "seq_cls", "set it to causal_lm"),
        ("tuner_backend", "unsloth", "set it to peft"),
        ("sequence_parallel_size", 2, "set it to 1"),
    ],
)
def test_a_key_that_selects_another_loss_is_refused_by_name(parse, key, value, fix):
    told = rf"`loss_type: otr` trains with One-Token Rollout.*`{key}: {value}`: {re.escape(fix)}"
    with pytest.raises(ValueError, match=told):
        parse(**{key: value}, **({"num_labels": 2} if value == "seq_cls" else {}))


@pytest.mark.parametrize("kind", ["dpo", "kto", "rm"])
def test_rlhf_is_refused(parse, kind):
    with pytest.raises(ValueError, match=rf"`rlhf_type: {kind}`: run `swift sft`; preference and RL trainers"):
        parse(kind=RLHFArguments, rlhf_type=kind)


@pytest.mark.parametrize("loss_type", [None, "cross_entropy"])
def test_settings_without_the_loss_are_refused(parse, loss_type):
    told = r"otr: the environment: OTR_SAMPLES: but `loss_type: .*`, so the run would train without OTR: add"
    with pytest.raises(ValueError, match=told):
        parse(env={"OTR_SAMPLES": 16}, loss_type=loss_type)


def test_a_recipe_without_otr_is_unaffected(parse):
    assert parse(loss_type=None).training_args.callbacks == []
    assert "liger_kernel_config" in vars(parse(loss_type="cross_entropy").training_args)
    assert parse(loss_type=None, env={"OTR_HOME": "another program's"}).training_args.callbacks == []


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("loss_type: otr\nENV: {OTR-SAMPLES: 16}", "2: `OTR-SAMPLES:`: write OTR_SAMPLES"),
        ("loss_type: otr\nENV: {OTR_SAMPLES: 16}\nENV: {USE_HF: 1}", "3: `ENV` is also on line 2"),
        ("loss_type: otr\nENV:\n  OTR_SAMPLES: 16\n  OTR_SAMPLES: 32", "4: `OTR_SAMPLES` is also on line 3"),
        ("loss_type: otr\nloss_type: cross_entropy", "2: `loss_type` is also on line 1"),
        ("loss_type: OTR", "1: `loss_type: OTR`: write `loss_type: otr`"),
        ("losstype: otr", "1: `losstype: otr`: write `loss_type: otr`"),
        ("loss_type: otr\notr: {samples: 16}", "2: `otr:`: ms-swift reads `loss_type: otr`"),
        ("plugins: [otr]", "1: `plugins: otr`: ms-swift reads `loss_type: otr`"),
        ("loss_type: otr\nOTR_SAMPLES: 16", "2: `OTR_SAMPLES:`: ms-swift reads `loss_type: otr`"),
        ("loss_type: otr\nenv: {OTR_SAMPLES: 16}", "2: `OTR_SAMPLES:`: ms-swift reads `loss_type: otr`"),
        ("ENV: {OTR_SAMPELS: 16}", "1: `OTR_SAMPELS:`: write OTR_SAMPLES"),
        (
            "loss_type: otr\nENV: {OTR_SAMPLES: 0}",
            "2: samples should be greater than or equal to 1, got 0, as OTR_SAMPLES",
        ),
    ],
)
def test_swifts_command_refuses_a_recipe_before_it_starts_a_process(tmp_path, monkeypatch, recipe, message):
    monkeypatch.setenv("USE_HF", "1")
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    with pytest.raises(SystemExit, match=rf"(?s)^otr: .*recipe\.yaml:{re.escape(message)}"):
        importlib.import_module("swift.cli.main").parse_yaml_args([str(path)])


@pytest.mark.parametrize(
    "recipe", ["loss_type: otr\nENV: {OTR_SAMPLES: 8}", "ENV: {USE_HF: 1}\nseed: 3", "output_dir: runs/otr"]
)
def test_swifts_command_accepts_a_right_recipe(tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(os, "environ", os.environ.copy())  # swift adds variables
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe)
    argv = [str(path)]
    importlib.import_module("swift.cli.main").parse_yaml_args(argv)
    assert argv[0].startswith("--")


def test_a_loss_that_the_command_line_replaces_is_refused(swift, parse, monkeypatch):
    monkeypatch.setenv("SWIFT_CONFIG_FILE", str(swift.recipe("replaced", loss_type="otr")))
    with pytest.raises(
        ValueError, match=r"replaced\.yaml:\d+: `loss_type: otr`, but the command line replaced it by None"
    ):
        parse(loss_type=None)


def test_megatron_is_refused(parse, monkeypatch):
    class MegatronSftArguments:
        def __init__(self, loss_type):
            self.loss_type = loss_type
            self.__post_init__()

        def __post_init__(self):
            pass

    module = ModuleType("swift.megatron.arguments.sft_args")
    module.MegatronSftArguments = MegatronSftArguments
    PATCHES[module.__name__](module)
    MegatronSftArguments(None)
    with pytest.raises(ValueError, match=r"Megatron's trainer computes its own loss.*: run `swift sft`"):
        MegatronSftArguments("otr")
    monkeypatch.setenv("OTR_SAMPLES", "16")
    with pytest.raises(ValueError, match=r"Megatron's trainer computes its own loss.*: run `swift sft`"):
        MegatronSftArguments(None)
    monkeypatch.setitem(sys.modules, "swift.megatron", None)
    with pytest.raises(ValueError, match=r"Megatron's trainer computes its own loss.*: run `swift sft`"):
        adapter.add_loss_type()


def test_a_trainer_that_cannot_be_patched_stops_the_run(parse, monkeypatch):
    factory = importlib.import_module(FACTORY)
    own = TrainerFactory.get_training_args
    adapter.add_loss_type()
    assert TrainerFactory.get_training_args is own, "once is enough"
    with pytest.raises(RuntimeError, match=r"looked for TrainerFactory\.get_training_args in .*, but did not find it"):
        adapter.patch_trainer_factory(ModuleType(FACTORY))
    args = SimpleNamespace(use_liger_kernel=False, callbacks=[])
    with pytest.raises(RuntimeError, match="looked for a call of on_init_end on the trainer's callbacks"):
        adapter.OTRLoss(args, SimpleNamespace())({}, None, num_items_in_batch=1)
    # The same if the adapter cannot be imported.
    monkeypatch.setitem(sys.modules, "otr_plugin.hosts.swift.adapter", None)
    PATCHES[FACTORY](factory)
    try:
        with pytest.raises(RuntimeError, match="otr: ms-swift cannot train with OTR: ModuleNotFoundError"):
            parse()
        assert parse(loss_type=None).training_args.callbacks == []
    finally:
        TrainerFactory.get_training_args = staticmethod(own)


def test_a_template_with_a_loss_of_its_own_is_refused():
    class Another(adapter.Template):
        def compute_sft_loss(self, model, inputs, num_items_in_batch=None, trainer=None):
            raise AssertionError

    trainer = SimpleNamespace(template=Another.__new__(Another))
    with pytest.raises(ValueError, match="Another computes a loss of its own, and the run would not train with OTR"):
        adapter.AttachCallback(None, trainer).on_init_end()
