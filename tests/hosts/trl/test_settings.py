"""Recipes with `plugins: [otr]` are checked before any work; recipes without it are unaffected."""

import json
import re
from importlib.metadata import version

import pytest
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer
from trl.scripts import sft
from trl.scripts.dpo import make_parser as make_dpo_parser

from benchmarks.hosts.driver import BIN
from otr_plugin import OTRConfig
from otr_plugin.hosts.recipes import SETTINGS_KEY
from otr_plugin.hosts.resume import STATE_KEY, to_save
from otr_plugin.hosts.trl import adapter

# TRL 1.16's own settings use names that transformers 5.23 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def parse(trl, *arguments, parser=None, **changes):
    recipe = str(trl.recipe("parsed", **{"plugins": ["otr"]} | changes))
    parser = parser or sft.make_parser()
    return parser.parse_args_and_config(["--config", recipe, *arguments], fail_with_unknown_args=False)


@pytest.mark.parametrize("plugins", [["otr"], ["otr_plugin.OTRPlugin"], "otr"], ids=str)
def test_settings_arrive(trl, plugins):
    args = parse(trl, plugins=plugins, otr={"samples": 8})[1]
    assert args.otr == OTRConfig(samples=8).model_dump()
    assert parse(trl, plugins=plugins)[1].otr == OTRConfig().model_dump()


@pytest.mark.parametrize("words", [("--otr.nll-weight", "0.5"), ("--otr.nll_weight=0.5",)], ids=str)
def test_a_command_line_overrides_a_recipe(trl, words):
    args = parse(trl, *words, "--learning_rate", "0.5", otr={"samples": 8})[1]
    assert args.otr == OTRConfig(samples=8, nll_weight=0.5).model_dump()
    assert args.learning_rate == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples should be greater than or equal to 1, got 0"),
        ({"tempratur": 2}, "unknown key 'tempratur': did you mean 'temperature'?"),
        ("yes", "`otr:` should hold settings, such as `samples: 256`, but it holds 'yes'"),
    ],
    ids=str,
)
def test_bad_settings_are_explained(trl, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(trl, otr=settings)


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"loss_type": "dft"}, "`loss_type: dft`: remove it; `otr: {objective: dft}` is that loss"),
        ({"loss_type": "another"}, "`loss_type: another`: remove it"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor: 0.1`: set it to 0"),
        (
            {"liger_kernel_config": {"fused_linear_cross_entropy": True}},
            "`fused_linear_cross_entropy` in liger_kernel_config: set it to false; Liger's other kernels can stay",
        ),
    ],
    ids=str,
)
def test_a_key_that_selects_another_loss_is_refused_by_name(trl, changes, fix):
    with pytest.raises(ValueError, match=rf"`plugins: \[otr\]` trains with One-Token Rollout.*{re.escape(fix)}"):
        parse(trl, **changes)


def test_another_command_is_refused(trl):
    with pytest.raises(ValueError, match="is for `trl sft`: TRL's other commands have losses of their own"):
        parse(trl, parser=make_dpo_parser())


@pytest.mark.parametrize("plugins", [None, [], ["another"]], ids=str)
def test_settings_without_the_plugin_are_refused(trl, plugins):
    """The script itself drops unknown keys."""
    with pytest.raises(
        ValueError,
        match=r"`otr:` is a setting of OTR, but `plugins:` \(.*\) does not name otr, so the run would",
    ):
        parse(trl, plugins=plugins, otr={"samples": 8})
    with pytest.raises(ValueError, match="so the run would ignore the setting and train without OTR"):
        parse(trl, "--otr.samples=8", plugins=plugins)


def test_another_plugin_is_refused(trl):
    with pytest.raises(ValueError, match=r"\['more'\] under `plugins:`, but the only plugin in TRL is otr"):
        parse(trl, plugins=["otr", "more"])


def test_a_trainer_with_a_loss_of_its_own_is_refused(trl):
    args = parse(trl)[1]

    class Weighted(SFTTrainer):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs)

    with pytest.raises(ValueError, match="otr: Weighted overrides compute_loss"):
        Weighted(model=str(trl.folder / "model"), args=args)


def test_a_trainer_that_cannot_be_patched_stops_the_run(trl, monkeypatch):
    """Another fused head could otherwise compute the loss unnoticed."""
    from trl.trainer import sft_trainer

    args = parse(trl)[1]
    for name in adapter.FUSED_HEADS:
        monkeypatch.delattr(sft_trainer, name, raising=False)
    message = r"looked for add_fused_lm_head or _patch_chunked_ce_lm_head in trl\.trainer\.sft_trainer"
    with pytest.raises(RuntimeError, match=message):
        SFTTrainer(model=str(trl.folder / "model"), args=args)


def test_compute_metrics_gets_logits_or_is_refused(trl):
    seen = []
    args, model = parse(trl)[1], str(trl.folder / "model")
    data = load_dataset("json", data_files=str(trl.folder / "pairs.jsonl"), split="train[:4]")
    data = {"train_dataset": data, "eval_dataset": data}

    def compute_metrics(prediction):
        seen.append(prediction.predictions.shape[-1])
        return {}

    if version("trl") == "1.9.0":
        with pytest.raises(ValueError, match=r"otr: TRL 1\.9\.0 would pass sums instead of logits to compute_metrics"):
            SFTTrainer(model, args=args, **data, compute_metrics=compute_metrics)
    else:
        SFTTrainer(model, args=args, **data, compute_metrics=compute_metrics).evaluate()
        assert seen == [64]


def test_a_plain_recipe_that_resumes_a_checkpoint_of_otr_warns(trl, capsys):
    checkpoint = trl.folder / "with otr" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    states = {STATE_KEY: to_save(OTRConfig(samples=16), 0)}
    (checkpoint / "trainer_state.json").write_text(json.dumps({"stateful_callbacks": states}))
    recipe = str(trl.recipe("resuming", resume_from_checkpoint=str(checkpoint)))
    sft.make_parser().parse_args_and_config(["--config", recipe], fail_with_unknown_args=False)
    assert f"{checkpoint} was saved by a run with OTR (settings other than the defaults" in capsys.readouterr().err
    parse(trl, resume_from_checkpoint=str(checkpoint))
    assert "was saved by a run with OTR" not in capsys.readouterr().err


def test_a_config_without_settings_carries_none():
    assert not hasattr(SFTConfig(use_cpu=True, bf16=False, report_to="none"), SETTINGS_KEY)


def test_a_recipe_without_otr_is_unaffected(trl):
    recipe = str(trl.recipe("unknown", plugins=["another"], no_such_key=1))
    told = []
    for switch in ("0", "1"):
        command = (str(BIN / "trl"), "sft", "--config", recipe)
        done = trl.call(*command, check=False, env={"OTR_PLUGIN_AUTOLOAD": switch})
        assert done.returncode != 0
        told.append(done.stderr.strip().splitlines()[-1])
    assert told[0] == told[1]
