"""attach() and transformers' own Trainer, to which nothing is said: steps, metrics and errors; and the examples."""

import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from benchmarks.hosts.driver import make_model
from benchmarks.paths import ROOT
from otr_plugin import OTRConfig, attach
from tests.hosts.agreement import ANSWER, BATCH, EXAMPLES, PROMPT, RECIPE, same_as_the_specification


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainer") / "model"
    make_model(folder)
    return folder


def rows(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (PROMPT, ANSWER))
    answer = [*answer, tokenizer.eos_token_id]
    row = {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
    return [{name: torch.tensor(value) for name, value in row.items()}] * EXAMPLES


def trainer_of(model, folder, kind=Trainer, **changes):
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
    return kind(model, TrainingArguments(**settings | changes), train_dataset=rows(folder))


def test_otr_is_what_the_specification_says(folder, capsys):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model, OTRConfig(**RECIPE["otr"]), seed=RECIPE["seed"])
    trainer = trainer_of(model, folder)
    trainer.train()
    assert "OTR is active: objective otr (16 samples" in capsys.readouterr().out
    same_as_the_specification(trainer.state.log_history, folder)


def test_two_trainers_after_one_another_log_what_is_theirs(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model, OTRConfig(samples=8))
    for steps in (1, 2):
        trainer = trainer_of(model, folder, max_steps=steps)
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry]
        assert [entry["loss"] for entry in entries] == pytest.approx([entry["otr/nll"] for entry in entries], rel=1e-4)


def test_a_trainer_without_an_attached_model_is_none_of_ours(folder, capsys):
    attach(AutoModelForCausalLM.from_pretrained(folder))
    trainer = trainer_of(AutoModelForCausalLM.from_pretrained(folder), folder, max_steps=1)
    trainer.train()
    assert "OTR" not in capsys.readouterr().out
    assert not any(name.startswith("otr/") for entry in trainer.state.log_history for name in entry)


class Weighted(Trainer):
    """Asks the model for logits, and computes a loss of its own."""

    def compute_loss(self, model, inputs, **_):
        labels = inputs.pop("labels")
        logits = model(**inputs).logits
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def test_a_trainer_that_goes_past_it_raises(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model)
    with pytest.raises(RuntimeError, match="an optimiser step was taken without OTR's loss"):
        trainer_of(model, folder, kind=Weighted).train()


def test_a_loss_of_the_trainers_own_is_refused(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    attach(model)
    with pytest.raises(ValueError, match="the trainer's label_smoother would compute the loss"):
        trainer_of(model, folder, label_smoothing_factor=0.1)


@pytest.mark.parametrize("name", ["train", "loop"])
def test_the_example_runs(tmp_path, name):
    (tmp_path / "example_configs").symlink_to(ROOT / "example_configs")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, f"example_configs/transformers/{name}.py")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "otr/hit_rate" in done.stdout
