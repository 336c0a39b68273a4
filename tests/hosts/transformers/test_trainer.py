"""An attached model in transformers' own Trainer: draws, metrics, errors, resuming, detaching; and the examples."""

import copy
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from benchmarks.paths import ROOT
from otr_plugin import OTRConfig, attach
from otr_plugin.model.attach import attached_handle
from otr_plugin.model.handle import Handle
from tests.hosts.agreement import ANSWER, BATCH, EXAMPLES, PROMPT, RECIPE, same_after_resume, same_as_the_specification


def rows(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, ANSWER))
    answer = [*answer, tokenizer.eos_token_id]
    row = {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
    return [{name: torch.tensor(value) for name, value in row.items()}] * EXAMPLES


def trainer_of(model, folder, kind=Trainer, model_init=None, compute_loss_func=None, **changes):
    settings = {
        "output_dir": str(folder.parent / "out"),
        "max_steps": RECIPE["max_steps"],
        "learning_rate": RECIPE["learning_rate"],
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": BATCH,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    functions = {"model_init": model_init, "compute_loss_func": compute_loss_func}
    return kind(model, TrainingArguments(**settings | changes), train_dataset=rows(folder), **functions)


def test_otr_is_what_the_specification_says(folder, capsys):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model, OTRConfig(**RECIPE["otr"]), seed=RECIPE["seed"])
    trainer = trainer_of(model, folder)
    trainer.train()
    printed = capsys.readouterr().out
    assert "OTR is active: objective otr (16 samples, temperature 1.3, beta -0.1, baseline none), seed 3" in printed
    assert printed.count("OTR's first-step check passed: at 8 trained positions") == 1
    same_as_the_specification(trainer.state.log_history, folder)


def test_a_resumed_run_equals_an_unbroken_one(folder):
    for name, resume_from in (("unbroken", None), ("resumed", folder.parent / "unbroken" / "checkpoint-2")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        attach(model, OTRConfig(samples=16), seed=3)
        out = {"output_dir": str(folder.parent / name), "save_strategy": "steps", "save_steps": 2}
        trainer_of(model, folder, **out).train(resume_from_checkpoint=resume_from and str(resume_from))
    same_after_resume(*(folder.parent / name / "checkpoint-4" for name in ("unbroken", "resumed")))


def test_the_trainer_class_is_patched_only_while_a_model_is_attached(folder, capsys, monkeypatch):
    for handle in list(Handle.attached):  # other tests leave theirs attached
        handle.detach()
    own = Trainer.train
    handles = [attach(AutoModelForCausalLM.from_pretrained(folder)) for _ in range(2)]
    assert Trainer.train is not own
    handles[0].detach()
    assert Trainer.train is not own, "a model is still attached"
    copied = copy.deepcopy(handles[1].model)
    handles[1].detach()
    assert Trainer.train is not own, "a copy of an attached model is attached"
    attached_handle(copied).detach()
    assert Trainer.train is own
    monkeypatch.setenv("OTR_PLUGIN_TRACE", "1")
    handle = attach(handles[0].model)
    trainer_of(handle.model, folder, max_steps=1).train()
    handle.detach()
    told = capsys.readouterr()
    assert "OTR is active" in told.out
    assert "replaced transformers.trainer.Trainer.train: connects a Trainer to its model" in told.err
    assert Trainer.train is own


def test_each_of_two_successive_trainers_logs_its_own_metrics(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model, OTRConfig(samples=8))
    for steps in (1, 2):
        trainer = trainer_of(model, folder, max_steps=steps)
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert [entry["loss"] for entry in entries] == pytest.approx([entry["otr/nll"] for entry in entries], rel=1e-4)


def test_a_trainer_of_another_model_is_unaffected(folder, capsys):
    attach(AutoModelForCausalLM.from_pretrained(folder))
    trainer = trainer_of(AutoModelForCausalLM.from_pretrained(folder), folder, max_steps=1)
    trainer.train()
    assert "OTR" not in capsys.readouterr().out
    assert not any(name.startswith("otr/") for entry in trainer.state.log_history for name in entry)


class Weighted(Trainer):
    """Computes its own loss from the model's logits."""

    def compute_loss(self, model, inputs, **_):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_a_step_without_otrs_loss_raises(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model)
    with pytest.raises(RuntimeError, match="an optimiser step was taken without OTR's loss"):
        trainer_of(model, folder, kind=Weighted).train()


def test_a_trainer_with_its_own_loss_is_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    trainer = trainer_of(model, folder, label_smoothing_factor=0.1)
    attach(model)
    with pytest.raises(ValueError, match="the trainer's label_smoother would compute the loss"):
        trainer.train()


@pytest.mark.parametrize("name", ["train", "loop"])
def test_the_example_runs(tmp_path, name):
    (tmp_path / "example_configs").symlink_to(ROOT / "example_configs")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, f"example_configs/transformers/{name}.py")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "otr/hit_rate" in done.stdout
