"""With `objective: sft` ms-swift computes what it computes without OTR; with the defaults it trains with OTR.

Most recipes run in one process, as the command would run each; the command itself, where processes matter.
"""

import itertools
import json

import pytest

from benchmarks.hosts import objectives
from benchmarks.hosts.driver import sums, write_jsonl
from benchmarks.hosts.liger_on_cpu import ENVIRONMENT, NORM_RAN, PREAMBLE
from benchmarks.hosts.swift import ROOT
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

LORA = {"tuner_type": "lora", "lora_rank": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
EVALUATED = {"split_dataset_ratio": 0.2, "eval_strategy": "steps", "eval_steps": 3}
WEIGHTED = {"dataset": "weighted.jsonl", "is_binary_loss_scale": False}
RECIPES = {
    "full": {},
    "batch size 1": {"per_device_train_batch_size": 1},
    "accumulated, logged every other step": {"gradient_accumulation_steps": 2, "logging_steps": 2},
    "evaluated": EVALUATED | {"per_device_eval_batch_size": 4},
    "evaluated with its own metric": EVALUATED | {"eval_metric": "acc"},
    "whole sequences through the head": {"use_logits_to_keep": False},
    "on the left": {"padding_side": "left"},
    "LoRA": LORA,
    "LoRA with a trained head": LORA | {"modules_to_save": ["lm_head"]},
    "LLaMA Pro": {"tuner_type": "llamapro", "llamapro_num_new_blocks": 2},
    "ms-swift's adapter": {"tuner_type": "adapter"},
    "QLoRA": LORA | {"quant_method": "bnb", "quant_bits": 4, "bnb_4bit_compute_dtype": "float32"},
    "packed": {"packing": True, "per_device_train_batch_size": 1},
    "padding free": {"padding_free": True},
    "padding free, batch size 1": {"padding_free": True, "per_device_train_batch_size": 1},
    "every token": {"loss_scale": "all"},
    "a mask within the answer": {"loss_scale": "last_round+ignore_empty_think"},
    "weights": WEIGHTED | {"gradient_accumulation_steps": 2} | EVALUATED,
    "weights, packed": WEIGHTED | {"packing": True, "per_device_train_batch_size": 1},
    "weights, whole sequences, evaluated with its own metric": WEIGHTED
    | EVALUATED
    | {"use_logits_to_keep": False, "eval_metric": "acc", "max_steps": 3},
}
SFT = {"loss_type": "otr", "env": {"OTR_OBJECTIVE": "sft"}}
OTR = {"loss_type": "otr", "env": {"OTR_SAMPLES": 16}}
ADAM = {"weight_decay": 0.0, "adam_beta2": 0.999}  # transformers' defaults, which swift changes
# A plugin that makes swift compute the loss from logits. OTR can notice this only after the first step.
BYPASS = """
from swift.trainers import Seq2SeqTrainer, per_token_loss_func
own = Seq2SeqTrainer._prepare_inputs
def compute_loss(outputs, labels, **_):
    return per_token_loss_func(outputs, labels).mean()
def prepare_inputs(self, inputs):
    return own(self, inputs) | {"compute_loss_func": compute_loss}
Seq2SeqTrainer._prepare_inputs = prepare_inputs
"""


def weighted():
    """Conversations in which answers have weights. The answers of weight 0 are not trained."""
    for (q, a), (other, b), weight in zip(sums(), reversed(sums()), itertools.cycle((0.3, 2.0, 1.0)), strict=False):
        turns = (("user", q, {}), ("assistant", a, {"loss_scale": weight}), ("user", other, {}))
        turns += (("assistant", b, {"loss_scale": 1.5 if weight == 1 else 0.0}),)
        yield {"messages": [{"role": role, "content": text} | scale for role, text, scale in turns]}


@pytest.fixture(scope="module")
def runs(swift):
    (swift.folder / "bypass.py").write_text(BYPASS)
    recipes = {}
    for name, recipe in RECIPES.items():
        recipes |= {f"{name}, plain": recipe, f"{name}, ours": recipe | SFT}
    (swift.folder / "same.jsonl").write_text((json.dumps({"prompt": PROMPT, "completion": ANSWER}) + "\n") * EXAMPLES)
    write_jsonl(swift.folder / "weighted.jsonl", weighted())
    same = {key: RECIPE[key] for key in ("max_steps", "learning_rate", "seed")} | ADAM | {"use_logits_to_keep": False}
    recipes["same"] = OTR | same | {"dataset": str(swift.folder / "same.jsonl")}
    recipes |= objectives.recipes("swift")
    saved = {"save_strategy": "steps", "save_steps": 3}
    recipes |= {
        "otr": OTR | EVALUATED,
        "by sequence": OTR | EVALUATED | {"acc_strategy": "seq"},
        "unbroken": OTR | saved,
        "resumed": OTR | saved | {"resume_from_checkpoint": str(swift.folder / "unbroken" / "checkpoint-3")},
        "plain after": {"resume_from_checkpoint": str(swift.folder / "unbroken" / "checkpoint-3")},
        "bypass": OTR
        | {"external_plugins": str(swift.folder / "bypass.py")},  # last, because its patch stays in the process
    }
    return swift.several(recipes)


def evaluations(log, name):
    return [entry[name] for entry in log if name in entry]


@pytest.mark.parametrize("recipe", RECIPES)
def test_sft_is_the_hosts_own_training(runs, recipe):
    plain, ours = runs[f"{recipe}, plain"], runs[f"{recipe}, ours"]
    assert (plain["error"], ours["error"]) == ("", "")
    assert "OTR is active: objective sft" in ours["messages"]
    assert "head of LlamaForCausalLM, otr-plugin" in ours["messages"], "not of a wrapper"
    assert (recipe == "QLoRA") == ("Linear4bit" in ours["messages"])
    assert "OTR" not in plain["messages"].replace("OTR_", "")
    assert len(losses(plain["log"])) >= 3
    same_training(ours["log"], plain["log"], norms=5e-5)
    for name in ("token_acc", "eval_loss", "eval_token_acc"):
        assert evaluations(ours["log"], name) == pytest.approx(evaluations(plain["log"], name), rel=2e-6)


def test_otr(runs):
    run = runs["otr"]
    assert "OTR is active: objective otr (16 samples, temperature 1.3, beta -0.1, baseline none)" in run["messages"]
    steps = [entry for entry in run["log"] if "loss" in entry]
    assert len(steps) == 6
    for entry in steps:
        assert entry.keys() >= METRICS
        assert entry["loss"] == pytest.approx(entry["otr/nll"], rel=1e-4), "the loss that is logged is the NLL"
        assert 0 <= entry["otr/hit_rate"] <= 1
        assert entry["token_acc"] == pytest.approx(entry["otr/accuracy"], abs=1e-6)
    assert len(evaluations(run["log"], "eval_token_acc")) == 2


def test_otr_is_what_the_specification_says(swift, runs):
    same_as_the_specification(runs["same"]["log"], swift.folder / "model")


def test_the_hosts_own_objectives_are_ours(runs):
    same_objectives("swift", {name: runs[name]["log"] for name in objectives.recipes("swift")})


def test_an_accuracy_that_needs_logits_is_refused(runs):
    assert "`acc_strategy: seq`: set it to token" in runs["by sequence"]["error"]


def test_a_resumed_run_equals_an_unbroken_one(swift, runs):
    assert runs["resumed"]["error"] == ""
    same_after_resume(*(swift.folder / name / "checkpoint-6" for name in ("unbroken", "resumed")))


def test_a_plain_run_that_resumes_a_checkpoint_of_otr_warns(runs):
    assert runs["plain after"]["error"] == ""
    assert "checkpoint-3 was saved by a run with OTR (settings other" in runs["plain after"]["messages"]
    assert "was saved by a run with OTR" not in runs["resumed"]["messages"]


def test_what_is_saved_needs_no_package(swift, runs):
    loads_without_this_package(swift.folder / "unbroken")


def test_a_step_without_otrs_loss_stops_the_run(runs):
    assert runs["bypass"]["error"].startswith("RuntimeError: otr: an optimiser step was taken without OTR's loss")


def test_a_plugin_file_works_without_the_autoload(swift):
    """And variables of the shell override the recipe's."""
    file = str(ROOT / "example_configs" / "swift" / "otr.py")
    shell = {"OTR_PLUGIN_AUTOLOAD": "0", "OTR_SAMPLES": "8"}
    _, printed = swift.train("plugin", "--external_plugins", file, "--max_steps", "1", shell=shell, **OTR)
    assert "OTR is active: objective otr (8 samples" in printed
    assert "Settings of OTR from the shell, and not from the recipe: OTR_SAMPLES=8\n" in printed
    variables = {"USE_HF": 1, "OTR_SAMPLES": "8"}
    assert_shared(swift.folder / "plugin", "swift", {"ENV": variables, "max_steps": 1})


def test_ligers_kernels_stay_and_its_loss_goes(swift):
    """Liger's kernels run in Triton's interpreter. With its fused loss left on, OTR would refuse to train."""
    recipe = {"use_liger_kernel": True, "max_steps": 2, "max_length": 16} | OTR | EVALUATED
    run = swift.several({"liger": recipe}, env=ENVIRONMENT, preamble=PREAMBLE)["liger"]
    assert run["error"] == ""
    assert "OTR is active: objective otr (16 samples" in run["messages"]
    assert NORM_RAN in run["printed"]
