"""With `objective: sft` the script of `trl sft` computes and logs what it does without OTR; with the defaults, OTR."""

import json
import sys

import pytest

from benchmarks.hosts import objectives
from benchmarks.hosts.liger_on_cpu import ENVIRONMENT, NORM_RAN, PREAMBLE
from tests.hosts.agreement import (
    ANSWER,
    EXAMPLES,
    METRICS,
    PROMPT,
    RECIPE,
    loads_without_this_package,
    losses,
    same_after_resume,
    same_as_the_specification,
    same_objectives,
    same_training,
)
from tests.hosts.shared_run import assert_shared

LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
SHORT = {"max_steps": 3}
SFT = {"plugins": ["otr"], "otr": {"objective": "sft"}}
RECIPES = {
    "full": {},
    "accumulated, logged every other step, evaluated": {
        "gradient_accumulation_steps": 2,
        "logging_steps": 2,
        "test_split_size": 0.2,
        "eval_strategy": "steps",
        "eval_steps": 3,
    },
    "LoRA": LORA,
    "QLoRA": LORA | {"load_in_4bit": True} | SHORT,
    "packed": {"packing": True, "max_length": 32, "per_device_train_batch_size": 1} | SHORT,
    "padding-free": {"padding_free": True, "max_length": None} | SHORT,
    "assistant-only": {"data": "chats", "assistant_only_loss": True} | SHORT,
    "chats, all of them": {"data": "chats"} | SHORT,
    "prompt and completion": {"completion_only_loss": False} | SHORT,
    "checkpointed": {"gradient_checkpointing": True} | SHORT,
    "experts, balanced": {"experts": True, "router_aux_loss_coef": 0.1, "gradient_accumulation_steps": 2} | SHORT,
    "loss_type nll": {"loss_type": "nll"} | SHORT,
    "loss_type chunked_nll": {"loss_type": "chunked_nll"} | SHORT,
}
OWN, OURS = objectives.recipes("trl")
TRLS_OWN = ("entropy", "mean_token_accuracy", "num_tokens", "aux_loss")


@pytest.fixture(scope="module")
def plain(trl):
    """Runs without OTR, with the autoload switched off."""
    recipes = {f"plain {name}": recipe for name, recipe in RECIPES.items()}
    trl.train_each(recipes | {OWN: objectives.recipes("trl")[OWN]}, env={"OTR_PLUGIN_AUTOLOAD": "0"})


@pytest.fixture(scope="module")
def ours(trl):
    recipes = {f"ours {name}": recipe | SFT for name, recipe in RECIPES.items()}
    recipes |= {OURS: objectives.recipes("trl")[OURS]}  # in the place of its twin: data are split before TRL seeds
    recipes |= {"bfloat16": SFT | SHORT | {"bf16": True}, "otr": {"plugins": ["otr"], "otr": {"samples": 16}}}
    printed = trl.train_each(recipes)
    assert printed.count("OTR is active") == len(recipes)
    return printed


def same_metrics(ours, plain):
    """TRL's own metrics of training and of evaluation are equal."""
    for entry, own in zip(ours, plain, strict=True):
        assert entry.keys() >= own.keys()
        for metric in [key for key in own if key.removeprefix("eval_") in (*TRLS_OWN, "loss")]:
            assert entry[metric] == pytest.approx(own[metric], rel=5e-6), metric


@pytest.mark.parametrize("name", RECIPES)
def test_sft_is_the_hosts_own_training(trl, plain, ours, name):
    own, log = trl.log_of(f"plain {name}"), trl.log_of(f"ours {name}")
    assert len(losses(own)) >= 3
    same_training(log, own, norms=5e-5)
    same_metrics(log, own)


def test_the_hosts_own_objectives_are_ours(trl, plain, ours):
    same_objectives("trl", {name: trl.log_of(name) for name in (OWN, OURS)})


def test_otr_is_what_the_specification_says(trl):
    (trl.folder / "same.jsonl").write_text((json.dumps({"prompt": PROMPT, "completion": ANSWER}) + "\n") * EXAMPLES)
    log, printed = trl.train("same", data="same", **RECIPE)
    assert "OTR is active: objective otr (16 samples, temperature 1.3, beta -0.1, baseline none)" in printed
    same_as_the_specification(log, trl.folder / "model")


def test_every_step_logs_otrs_metrics(trl):
    otr = {
        "plugins": ["otr"],
        "otr": {"samples": 32},
        "test_split_size": 0.2,
        "eval_strategy": "steps",
        "eval_steps": 3,
    }
    log, printed = trl.train("told", "--otr.samples", "8", **otr)
    assert "OTR is active: objective otr (8 samples" in printed, "the command line is over the recipe"
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 6
    for entry in steps:
        assert entry.keys() >= METRICS
        assert entry["loss"] == pytest.approx(entry["otr/nll"], rel=1e-4), "the loss that is logged is the NLL"
        assert entry["entropy"] == pytest.approx(entry["otr/entropy"], rel=1e-4)
        assert entry["mean_token_accuracy"] == pytest.approx(entry["otr/accuracy"], abs=1e-5)
    assert [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert_shared(trl.folder / "told", "trl", {"otr": {"samples": 8}, "eval_steps": 3})


def test_what_is_saved_needs_no_package(trl, ours):
    loads_without_this_package(trl.folder / "otr")


def test_bfloat16_equals_float32_within_its_rounding(trl, ours):
    (loss, norm), (want_loss, want_norm) = (losses(trl.log_of(name))[0] for name in ("bfloat16", "ours full"))
    assert loss == pytest.approx(want_loss, rel=2**-8)
    assert norm == pytest.approx(want_norm, rel=2**-8)


ATTACHED = """
import sys
from datasets import load_dataset
from transformers import AutoModelForCausalLM
from trl import SFTTrainer
from trl.scripts.sft import make_parser
from otr_plugin import OTRConfig, attach

_, arguments, paths, _ = make_parser().parse_args_and_config(["--config", sys.argv[1]], fail_with_unknown_args=False)
model = AutoModelForCausalLM.from_pretrained(paths.model_name_or_path)
attach(model, OTRConfig(samples=16), seed=arguments.seed)
data = load_dataset("json", data_files=sys.argv[2], split="train")
trainer = SFTTrainer(model, arguments, train_dataset=data)
trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
trainer.save_state()
"""


def test_a_resumed_run_equals_an_unbroken_one(trl):
    """In Python, because the script of `trl sft` cannot resume before TRL 1.16."""
    recipe = {"save_strategy": "steps", "save_steps": 3}
    checkpoint = str(trl.folder / "unbroken" / "checkpoint-3")
    for name, changes in (("unbroken", {}), ("resumed", {"resume_from_checkpoint": checkpoint})):
        path = str(trl.recipe(name, **recipe, **changes))
        trl.call(sys.executable, "-c", ATTACHED, path, str(trl.folder / "pairs.jsonl"))
    same_after_resume(*(trl.folder / name / "checkpoint-6" for name in ("unbroken", "resumed")))


@pytest.mark.parametrize("autoload", ["1", "0"])
def test_an_attached_model_trains_as_its_recipe_does(trl, ours, autoload):
    """Also with the autoload switched off, where SFTTrainer's own head could compute plain cross entropy unnoticed."""
    recipe = trl.recipe("attached")
    data = str(trl.folder / "pairs.jsonl")
    done = trl.call(sys.executable, "-c", ATTACHED, str(recipe), data, env={"OTR_PLUGIN_AUTOLOAD": autoload})
    assert "OTR is active: objective otr (16 samples" in done.stdout
    log = json.loads((trl.folder / "attached" / "trainer_state.json").read_text())["log_history"]
    want = trl.log_of("otr")
    same_training(log, want, norms=1e-6)
    assert [entry["otr/objective"] for entry in log if "loss" in entry] == [entry["otr/objective"] for entry in want]


def test_ligers_kernels_stay_and_its_loss_goes(trl):
    """Liger's kernels run in Triton's interpreter. Its fused loss would replace OTR's forward."""
    pytest.importorskip("liger_kernel", reason="Liger's kernels are not installed beside this TRL")
    recipe = SFT | {"max_steps": 2, "max_length": 16}
    plain = trl.train_each({"no liger": recipe})
    printed = trl.train_each({"liger": recipe | {"use_liger_kernel": True}}, env=ENVIRONMENT, preamble=PREAMBLE)
    assert "OTR is active" in plain
    assert "OTR is active" in printed
    assert NORM_RAN in printed
    same_training(trl.log_of("liger"), trl.log_of("no liger"), norms=1e-4)
