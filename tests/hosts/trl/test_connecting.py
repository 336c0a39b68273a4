"""An SFTTrainer and attach() in any order of calls, and an SFTTrainer after detach()."""

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from otr_plugin import OTRConfig, attach
from otr_plugin.model.attach import attached_handle
from tests.hosts.agreement import losses

# TRL 1.16's own settings use names that transformers 5.23 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

OTR = OTRConfig(samples=16)
TRLS_OWN = ("entropy", "mean_token_accuracy", "num_tokens")


def trainer_of(trl, model, **changes):
    data = load_dataset("json", data_files=str(trl.folder / "pairs.jsonl"), split="train[:16]")
    settings = {
        "output_dir": str(trl.folder / "connecting"),
        "max_steps": 3,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "seed": 3,
    }
    return SFTTrainer(model, SFTConfig(**settings | changes), train_dataset=data, eval_dataset=data)


def load(trl):
    return AutoModelForCausalLM.from_pretrained(trl.folder / "model")


def entries(trainer):
    kept = ("step", "loss", "grad_norm", *TRLS_OWN)
    return [
        {key: entry[key] for key in entry if key in kept or key.startswith("otr/")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


@pytest.fixture(scope="module", autouse=True)
def trained(trl):
    """A run makes the model and the data."""
    trl.train("for connecting", max_steps=1)


@pytest.mark.parametrize("loss_type", ["nll", "chunked_nll"])
def test_either_order_trains_the_same_and_detach_gives_trls_own_training_back(trl, loss_type):
    plain = trainer_of(trl, load(trl), loss_type=loss_type)
    plain.train()
    wanted_evaluation = plain.evaluate()["eval_loss"]
    logs = []
    for first in (True, False):
        model = load(trl)
        if first:
            attach(model, OTR)
        trainer = trainer_of(trl, model, loss_type=loss_type)
        if not first:
            attach(model, OTR)
        attach(trainer.model, OTR)  # again, over the other handle
        before = trainer.evaluate()["eval_loss"]
        for _ in range(2):
            model.load_state_dict(load(trl).state_dict())
            trainer.optimizer = trainer.lr_scheduler = None
            trainer._total_train_tokens = 0
            trainer.train()
            logs.append(entries(trainer))
        assert trainer.args.loss_type == plain.args.loss_type, "as it was"
        attached_handle(model).detach()
        model.load_state_dict(load(trl).state_dict())
        assert trainer.evaluate()["eval_loss"] == pytest.approx(before, rel=2e-6)
        trainer.optimizer = trainer.lr_scheduler = None
        trainer._total_train_tokens = 0
        trainer.train()
        assert entries(trainer) == entries(plain)
        assert trainer.evaluate()["eval_loss"] == wanted_evaluation
    assert all(log == logs[0] for log in logs)
    assert all("otr/hit_rate" in entry and "entropy" in entry for entry in logs[0])
    assert len(losses(trainer.state.log_history)) == 3


def test_a_subclass_with_its_own_loss_is_refused_in_any_order(trl):
    class Weighted(SFTTrainer):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs)

    trainer = trainer_of(trl, load(trl))
    trainer.__class__ = Weighted
    attach(trainer.model)
    with pytest.raises(ValueError, match="otr: Weighted overrides compute_loss"):
        trainer.train()


def test_another_loss_of_trls_is_refused_in_any_order(trl):
    trainer = trainer_of(trl, load(trl), loss_type="dft")
    attach(trainer.model)
    with pytest.raises(ValueError, match=r"`loss_type: dft`: remove it|the trainer's compute_loss_func"):
        trainer.train()


def test_token_weights_of_a_data_collator_are_trained(trl):
    trainer = trainer_of(trl, load(trl))
    attach(trainer.model, OTRConfig(objective="sft"))
    collate = trainer.data_collator

    def collate_with_weights(examples):
        batch = collate(examples)
        return batch | {"token_weights": torch.full(batch["labels"].shape, 2.0)}

    trainer.data_collator = collate_with_weights
    trainer.train()
    for entry in entries(trainer):
        assert entry["loss"] == pytest.approx(2 * entry["otr/nll"], rel=1e-5)
        assert entry["otr/weight"] == pytest.approx(2)
