"""A checkpoint holds OTR's settings; a run that resumes it with others, or that began without OTR, warns."""

import pytest
from transformers import AutoModelForCausalLM

from otr_plugin import OTRConfig, attach
from otr_plugin.hosts.resume import settings_in_checkpoint
from tests.hosts.agreement import loads_without_this_package
from tests.hosts.command import compared
from tests.hosts.transformers.test_trainer import trainer_of

SAVED = OTRConfig(samples=16)
RUN = {"save_strategy": "steps", "save_steps": 2, "seed": 3}


def train(folder, name, config, resume_from=None, **changes):
    model = AutoModelForCausalLM.from_pretrained(folder)
    if config is not None:
        attach(model, config)
    trainer = trainer_of(model, folder, output_dir=str(folder.parent / name), **RUN | changes)
    trainer.train(resume_from_checkpoint=resume_from and str(folder.parent / resume_from / "checkpoint-2"))


@pytest.fixture(scope="module")
def saved(folder):
    train(folder, "saved", SAVED)
    train(folder, "plain", None)


def test_the_checkpoint_holds_the_settings(folder, saved):
    assert settings_in_checkpoint(folder.parent / "saved" / "checkpoint-4")["settings"] == SAVED.model_dump()
    assert settings_in_checkpoint(folder.parent / "saved" / "checkpoint-4")["seed"] == 3
    assert settings_in_checkpoint(folder.parent / "plain" / "checkpoint-2") is None
    loads_without_this_package(folder.parent / "saved")


def test_the_runs_are_compared(folder, saved):
    """Trainer records no data: one fixed order is no proof of the other."""
    found = compared(folder.parent / "plain", folder.parent / "saved", exit_code=3)
    assert [each["host"] for each in found["runs"]] == ["transformers", "transformers"]
    assert found["differences"]["settings"] == []
    assert found["runs"][1]["otr"] == SAVED.model_dump()


def test_other_settings_warn(folder, saved, capsys):
    train(folder, "same", SAVED, "saved")
    assert "other settings" not in capsys.readouterr().out
    train(folder, "other", OTRConfig(samples=16, beta=-0.5), "saved", seed=4)
    printed = capsys.readouterr().out
    assert printed.count("the run that is resumed had other settings of OTR than this one") == 1
    assert "beta was -0.1 and is -0.5; seed was 3 and is 4." in printed
    assert settings_in_checkpoint(folder.parent / "other" / "checkpoint-4")["settings"]["beta"] == -0.5
    # Callbacks may be restored from the checkpoint: OTR's stays as it is.
    train(folder, "restored", OTRConfig(samples=8), "saved", restore_callback_states_from_checkpoint=True)
    assert "samples was 16 and is 8." in capsys.readouterr().out
    assert settings_in_checkpoint(folder.parent / "restored" / "checkpoint-4")["settings"]["samples"] == 8


def test_a_plain_checkpoint_warns(folder, saved, capsys):
    train(folder, "from plain", SAVED, "plain")
    assert "otr: the checkpoint holds no settings of OTR" in capsys.readouterr().out
    assert settings_in_checkpoint(folder.parent / "from plain" / "checkpoint-4")["settings"] == SAVED.model_dump()


def test_a_run_without_otr_resumes_a_checkpoint_with_it(folder, saved):
    train(folder, "without", None, "saved")
