"""Axolotl's own command: it loads the plugin, and trains what the recipe names."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from benchmarks.hosts.axolotl import ENV
from benchmarks.hosts.driver import BIN, run_command
from otr_plugin import OTRConfig
from otr_plugin.command.comparison import run
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
from tests.hosts.command import compared
from tests.hosts.shared_run import assert_shared

PACKED = {"sample_packing": True, "pad_to_sequence_len": True, "sequence_len": 128}
DEFAULT_LAUNCHER = ("--launcher", "accelerate")  # what `axolotl train` uses


def test_axolotl_loads_the_plugin(axolotl):
    log, printed = axolotl.train(
        "seen", *DEFAULT_LAUNCHER, plugins=["otr"], otr={"samples": 32}, val_set_size=0.1, eval_steps=3
    )
    assert "OTR is active: objective otr (32 samples, temperature 1.3, beta -0.1, baseline none)" in printed
    steps = [entry for entry in log if "loss" in entry]
    assert len(steps) == 6
    for entry in steps:
        assert entry.keys() >= METRICS
        assert entry["loss"] == pytest.approx(entry["otr/nll"], rel=1e-4), "the loss that is logged is the NLL"
        assert entry["otr/objective"] != pytest.approx(entry["loss"], rel=0.1)
        assert 0 <= entry["otr/hit_rate"] <= 1
    assert [entry["eval_loss"] for entry in log if "eval_loss" in entry]


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        PACKED | {"gradient_accumulation_steps": 3},
        {"train_on_inputs": True, "gradient_accumulation_steps": 4, "logging_steps": 2},
    ],
    ids=["plain", "packed, accumulated", "train_on_inputs, accumulated, logged every other step"],
)
def test_sft_is_the_hosts_own_training(axolotl, recipe):
    recipe = recipe | {"val_set_size": 0.1, "eval_steps": 3}
    plain, _ = axolotl.train("plain", **recipe)
    ours, printed = axolotl.train("ours", plugins=["otr"], otr={"objective": "sft"}, **recipe)
    assert "OTR is active: objective sft" in printed
    assert len(losses(plain)) >= 3
    same_training(ours, plain, norms=2e-5)
    evaluations = [[e["eval_loss"] for e in log if "eval_loss" in e] for log in (ours, plain)]
    assert evaluations[0] == pytest.approx(evaluations[1], rel=2e-6)
    if recipe.get("logging_steps", 1) == 1:
        found = compared(axolotl.folder / "plain", axolotl.folder / "ours")
        assert found["differences"]["settings"] == []
        assert [each["host"] for each in found["runs"]] == ["axolotl", "axolotl"]
        for stretch in found["nll"]["stretches"]:
            assert stretch["differences"] == pytest.approx([0.0], abs=1e-5)


@pytest.mark.parametrize("autoload", ["1", "0"])
def test_a_plain_recipe_after_one_with_otr_in_the_same_process_is_plain(axolotl, autoload):
    """As in a notebook: Axolotl keeps the plugins of an earlier recipe registered."""
    plain = {"plugins": ["axolotl.integrations.liger.LigerPlugin"], "save_strategy": "steps", "save_steps": 1000}
    plain |= {"save_first_step": False, "max_steps": 3}
    # Without the autoload, the class is the only name of the plugin.
    first = axolotl.recipe("first", **plain | {"plugins": ["otr_plugin.OTRPlugin"], "otr": {"samples": 8}})
    second = axolotl.recipe("second", **plain)
    code = f"from axolotl.cli.train import do_cli; [do_cli(path) for path in ({str(first)!r}, {str(second)!r})]"
    env = ENV | {"OTR_PLUGIN_AUTOLOAD": autoload}
    done = run_command(sys.executable, "-c", code, folder=axolotl.folder, env=env, check=True)
    assert (done.stdout + done.stderr).count("OTR is active") == 1
    assert axolotl.log_of("first")[0].keys() >= METRICS
    assert not METRICS & axolotl.log_of("second")[0].keys()
    alone, _ = axolotl.train("alone", **plain)
    same_training(axolotl.log_of("second"), alone, norms=2e-6)


def test_otr_is_what_the_specification_says(axolotl):
    (axolotl.folder / "same.jsonl").write_text((json.dumps({"prompt": PROMPT, "completion": ANSWER}) + "\n") * EXAMPLES)
    log, _ = axolotl.train("same", data="same.jsonl", **RECIPE)
    same_as_the_specification(log, axolotl.folder / "model", width=64)


@pytest.mark.parametrize("moment", ["in a step", "in a save"])
def test_a_run_that_was_killed_and_resumed_equals_an_unbroken_one(axolotl, moment):
    recipe = {
        "plugins": ["otr"],
        "otr": {"samples": 16},
        "max_steps": 40,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 50,
    }
    unbroken, killed = f"unbroken {moment}", f"killed {moment}"
    axolotl.train(unbroken, *DEFAULT_LAUNCHER, **recipe)
    path = axolotl.recipe(killed, **recipe)
    folder = axolotl.folder / killed
    process = subprocess.Popen(
        [str(BIN / "axolotl"), "train", str(path)],
        cwd=axolotl.folder,
        env=ENV,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    enough = "checkpoint-6/trainer_state.json" if moment == "in a step" else "checkpoint-8"
    deadline = time.monotonic() + 1200  # against a hang; loaded machines are slow
    while not (folder / enough).exists():
        assert time.monotonic() < deadline, "the run saved no checkpoint"
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "checkpoint-40").exists(), "killed too late to tell"
    whole = [c for c in folder.glob("checkpoint-*") if (c / "trainer_state.json").exists()]
    last = max(whole, key=lambda c: int(c.name.split("-")[1]))
    axolotl.train(killed, *DEFAULT_LAUNCHER, **recipe | {"resume_from_checkpoint": str(last)})
    same_after_resume(*(axolotl.folder / name / "checkpoint-40" for name in (unbroken, killed)))


def test_overrides_on_the_command_line_reach_the_settings(axolotl):
    path = axolotl.recipe("override", plugins=["otr"], otr={"samples": 32}, max_steps=1)
    done = axolotl.call("train", str(path), "--otr.samples=8", "--otr.objective", "otr")
    assert "OTR is active: objective otr (8 samples" in done.stdout + done.stderr
    done = axolotl.call("train", str(path), "--otr.samples=0", check=False)
    assert done.returncode != 0
    assert "samples should be greater than or equal to 1, got 0" in done.stdout + done.stderr


def test_the_model_card_has_the_settings_of_the_command_line(axolotl):
    """The recipe in Axolotl's card is that of the file."""
    saved = {"save_strategy": "steps", "save_steps": 1}
    path = axolotl.recipe("carded", plugins=["otr"], otr={"samples": 32}, max_steps=1, **saved)
    axolotl.call("train", str(path), "--otr.samples", "16")
    card = (axolotl.folder / "carded" / "README.md").read_text()
    recipe, settings = card.split("### One-Token Rollout")
    assert "samples: 32" in recipe
    assert "samples: 16" in settings
    assert "otr-plugin 0.1.0, seed " in settings
    assert yaml.safe_load(settings.split("```yaml")[1].split("```")[0])["otr"] == OTRConfig(samples=16).model_dump()
    loads_without_this_package(axolotl.folder / "carded")
    assert_shared(axolotl.folder / "carded", "axolotl", {"otr": {"samples": 16}, "max_steps": 1})


def test_accumulated_micro_batches_equal_one_batch(axolotl):
    """If all have the same number of tokens: Axolotl 0.19.0 averages micro-batches without weights."""
    recipe = {"plugins": ["otr"], "otr": {"estimator": "exact"}, "data": "equal_lengths.jsonl"}
    whole, _ = axolotl.train("whole", **recipe, micro_batch_size=4)
    parts, _ = axolotl.train("parts", **recipe, micro_batch_size=1, gradient_accumulation_steps=4)
    for (loss, norm), (own_loss, own_norm) in zip(losses(parts), losses(whole), strict=True):
        assert loss == pytest.approx(own_loss, rel=1e-4)
        assert norm == pytest.approx(own_norm, rel=1e-3)
    for part, one in zip(parts, whole, strict=True):
        for name in METRICS & part.keys():
            assert part[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


def test_evaluate_and_preprocess(axolotl):
    path = axolotl.recipe("evaluated", plugins=["otr"], val_set_size=0.2)
    axolotl.call("preprocess", str(path))
    ours = axolotl.call("evaluate", str(path))
    plain = axolotl.call("evaluate", str(axolotl.recipe("evaluated_plain", val_set_size=0.2)))
    assert "OTR is active" in ours.stdout + ours.stderr

    def figures(done):
        text = done.stdout + done.stderr
        return [float(line.split("eval_loss:")[1].split()[0]) for line in text.splitlines() if "eval_loss:" in line]

    assert figures(ours) == pytest.approx(figures(plain), rel=1e-6)
    assert figures(ours)


def test_sweeps_reach_the_settings(axolotl):
    sweep = axolotl.folder / "sweep.yaml"
    sweep.write_text("otr.samples: [8, 16]\n")
    done = axolotl.call("train", str(axolotl.recipe("swept", plugins=["otr"], max_steps=1)), "--sweep", str(sweep))
    for samples in (8, 16):
        assert f"OTR is active: objective otr ({samples} samples" in done.stdout + done.stderr


@pytest.mark.parametrize("launcher", ["torchrun", "python"])
def test_launchers(axolotl, launcher):
    path = axolotl.recipe(launcher, plugins=["otr_plugin.OTRPlugin"], max_steps=1)
    done = axolotl.call("train", str(path), "--launcher", launcher, env={"OTR_PLUGIN_AUTOLOAD": "0"})
    assert "OTR is active" in done.stdout + done.stderr


def test_metrics_reach_tensorboard(axolotl):
    axolotl.train("board", plugins=["otr"], use_tensorboard=True, max_steps=2)
    (events,) = (axolotl.folder / "board").rglob("events.out.tfevents.*")
    assert all(f"train/{name}".encode() in events.read_bytes() for name in METRICS)
    before = run.read(axolotl.folder / "board")
    for path in [*(axolotl.folder / "board").glob("checkpoint-*")]:
        shutil.rmtree(path)
    from_events = run.read(axolotl.folder / "board")  # as in a run that has saved nothing yet
    assert "TensorBoard's events" in from_events.sources
    assert [entry["step"] for entry in from_events.log] == [1, 2]
    for entry, logged in zip(from_events.log, before.log, strict=True):
        assert entry["otr/nll"] == pytest.approx(logged["otr/nll"], rel=1e-6)
