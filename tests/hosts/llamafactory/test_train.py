"""With `objective: sft` LLaMA-Factory computes what it computes without OTR; with the defaults it trains with OTR."""

import json
import sys

import pytest

from benchmarks.hosts.driver import BIN
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
    same_training,
)
from tests.hosts.shared_run import assert_shared

LORA = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "q_proj,v_proj", "lora_dropout": 0.1}
RECIPES = {
    "full": {},
    "accumulated, logged every other step, evaluated": {
        "gradient_accumulation_steps": 2,
        "logging_steps": 2,
        "val_size": 0.2,
        "eval_strategy": "steps",
        "eval_steps": 3,
    },
    "LoRA": LORA,
    "QLoRA": LORA | {"quantization_bit": 4, "quantization_method": "bnb"},
    "packed": {"packing": True},
    "packed neatly": {"packing": True, "neat_packing": True, "flash_attn": "sdpa"},
    "continued pretraining": {"stage": "pt", "packing": True},
}


def evaluations(log):
    return [entry["eval_loss"] for entry in log if "eval_loss" in entry]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_sft_is_the_hosts_own_training(factory, recipe):
    plain, _ = factory.train("plain", **recipe)
    ours, printed = factory.train("ours", plugins=["otr"], otr={"objective": "sft"}, **recipe)
    assert "OTR is active: objective sft" in printed
    assert len(losses(plain)) >= 3
    same_training(ours, plain, norms=5e-5)
    assert evaluations(ours) == pytest.approx(evaluations(plain), rel=2e-6)


def test_what_is_saved_needs_no_package_and_a_plain_run_that_resumes_it_warns(factory):
    steps = {"save_strategy": "steps", "save_steps": 2}
    factory.train("saved", plugins=["otr"], otr={"samples": 16}, max_steps=2, **steps)
    checkpoint = factory.folder / "saved" / "checkpoint-2"
    loads_without_this_package(factory.folder / "saved")
    _, printed = factory.train("plain after", max_steps=3, resume_from_checkpoint=str(checkpoint))
    assert f"{checkpoint} was saved by a run with OTR (settings other than the defaults: {{'samples': 16}})" in printed
    again = {"plugins": ["otr"], "otr": {"samples": 8}, "resume_from_checkpoint": str(checkpoint)}
    _, printed = factory.train("other after", max_steps=3, **again)
    assert "samples was 16 and is 8" in printed


def test_otr(factory):
    log, printed = factory.train("otr", plugins=["otr"], otr={"samples": 32}, val_size=0.2, eval_strategy="epoch")
    assert "OTR is active: objective otr (32 samples, temperature 1.3, beta -0.1, baseline none)" in printed
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 6
    for entry in steps:
        assert entry.keys() >= METRICS
        assert entry["loss"] == pytest.approx(entry["otr/nll"], rel=1e-4), "the loss that is logged is the NLL"
        assert 0 <= entry["otr/hit_rate"] <= 1


def test_otr_is_what_the_specification_says(factory):
    rows = [{"instruction": PROMPT, "input": "", "output": ANSWER}] * EXAMPLES
    (factory.folder / "same.json").write_text(json.dumps(rows))
    log, _ = factory.train("same", dataset="same", **RECIPE)
    same_as_the_specification(log, factory.folder / "model", eos=False, width=8)


def test_a_resumed_run_equals_an_unbroken_one(factory):
    recipe = {"plugins": ["otr"], "otr": {"samples": 16}, "save_strategy": "steps", "save_steps": 3}
    factory.train("unbroken", **recipe)
    checkpoint = factory.folder / "unbroken" / "checkpoint-3"
    factory.train("resumed", **recipe, resume_from_checkpoint=str(checkpoint))
    same_after_resume(*(factory.folder / name / "checkpoint-6" for name in ("unbroken", "resumed")))


def test_overrides_on_the_command_line(factory):
    _, printed = factory.train("override", "otr.samples=8", "max_steps=1", plugins=["otr"], otr={"samples": 32})
    assert "OTR is active: objective otr (8 samples" in printed
    assert_shared(factory.folder / "override", "llamafactory", {"otr": {"samples": 8}, "max_steps": 1})


def test_ligers_kernels_stay_and_its_loss_goes(factory):
    """Liger's kernels run in Triton's interpreter. With its fused loss left on, OTR would refuse to train."""
    script = PREAMBLE + "from llamafactory.cli import main; import sys; sys.argv[0] = 'llamafactory-cli'; main()"
    recipe = factory.recipe(
        "liger", plugins=["otr"], otr={"samples": 16}, enable_liger_kernel=True, max_steps=2, cutoff_len=16
    )
    done = factory.call(sys.executable, "-c", script, "train", str(recipe), env=ENVIRONMENT)
    printed = done.stdout + done.stderr
    assert "Liger kernel has been applied to the model." in printed
    assert "OTR is active: objective otr (16 samples" in printed
    assert NORM_RAN in printed


def test_the_short_command_is_the_same(factory):
    done = factory.call(str(BIN / "lmf"), "train", str(factory.recipe("lmf", plugins=["otr"], max_steps=1)))
    assert "OTR is active" in done.stdout + done.stderr
