"""A trainer and its model are connected in any order of calls, and only while the trainer works."""

import types

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback
from transformers.trainer_utils import HPSearchBackend

from otr_plugin import OTRConfig, attach
from otr_plugin.hosts.transformers.adapter import patch_trainer
from otr_plugin.model.attach import attached_handle
from tests.hosts.agreement import losses
from tests.hosts.transformers.test_trainer import rows, trainer_of

SEED = 5  # not the default of TrainingArguments, and not attach's
OTR = OTRConfig(samples=16)


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder)


def entries(trainer):
    """The training log, without speeds and times."""
    kept = ("step", "loss", "grad_norm")
    return [
        {key: entry[key] for key in entry if key in kept or key.startswith("otr/")}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


@pytest.fixture(scope="module")
def wanted(folder):
    """The log of a run whose model was attached before its trainer was constructed, with an explicit seed."""
    model = load(folder)
    attach(model, OTR, seed=SEED)
    trainer = trainer_of(model, folder, seed=SEED)
    trainer.train()
    assert len(entries(trainer)) == 4
    assert "otr/hit_rate" in entries(trainer)[0]
    return entries(trainer)


def attach_first(folder):
    model = load(folder)
    attach(model, OTR)
    return trainer_of(model, folder, seed=SEED)


def attach_after(folder):
    trainer = trainer_of(load(folder), folder, seed=SEED)
    attach(trainer.model, OTR)
    return trainer


def attach_again(folder):
    trainer = attach_first(folder)
    attach(trainer.model, OTRConfig(objective="sft"))
    attach(trainer.model, OTR)
    return trainer


def model_init(folder):
    def attached():
        model = load(folder)
        attach(model, OTR)
        return model

    trainer = trainer_of(None, folder, seed=SEED, model_init=attached)
    trainer.first = trainer.model
    return trainer


def prepared_first(folder):
    trainer = trainer_of(load(folder), folder, seed=SEED)
    model = trainer.accelerator.prepare(trainer.model)
    attach(model, OTR)
    return trainer


def prepared_after(folder):
    trainer = attach_first(folder)
    trainer.accelerator.prepare(trainer.model)
    return trainer


ORDERS = [attach_first, attach_after, attach_again, model_init, prepared_first, prepared_after]


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_trains_the_same(folder, wanted, order, capsys):
    trainer = order(folder)
    trainer.train()
    assert entries(trainer) == wanted
    assert capsys.readouterr().out.count("OTR is active: objective otr (16 samples") == 1
    if order is model_init:
        assert trainer.model is not trainer.first, "the trainer trains the second model that model_init returned"


def test_an_explicit_seed_is_over_the_trainers(folder, wanted):
    model = load(folder)
    attach(model, OTR, seed=SEED)
    trainer = trainer_of(model, folder, seed=SEED + 1)
    trainer.train()
    # Every batch of these trainers is the same, so that the order of the data makes no difference.
    assert entries(trainer) == wanted
    attached_handle(model).detach()
    attach(model, OTR)
    trainer.train()
    assert losses(trainer.state.log_history)[0] != (wanted[0]["loss"], wanted[0]["grad_norm"])


def test_a_second_model_that_is_not_attached_is_refused(folder):
    trainer = trainer_of(None, folder, model_init=lambda: load(folder))
    attach(trainer.model)
    with pytest.raises(ValueError, match="its model_init has now returned another one that is not"):
        trainer.train()


def test_a_loss_function_of_the_trainer_is_refused_in_any_order(folder):
    trainer = trainer_of(load(folder), folder, compute_loss_func=lambda outputs, labels, **_: outputs.logits.sum())
    attach(trainer.model)
    with pytest.raises(ValueError, match="the trainer's compute_loss_func would compute the loss"):
        trainer.train()


def test_ligers_fused_loss_is_refused(folder):
    model = load(folder)
    attach(model)
    trainer = trainer_of(model, folder)
    trainer.args.use_liger_kernel = True  # set here: TrainingArguments requires Liger
    with pytest.raises(ValueError, match=r"use_liger_kernel would compute the loss.*fused_linear_cross_entropy"):
        trainer.train()


@pytest.mark.parametrize("where", ["the wrapper", "the base model"])
def test_attaching_a_peft_model_and_its_base_is_the_same(folder, where, wanted):
    logs = []
    for attach_to in ("the wrapper", where):
        torch.manual_seed(0)
        model = get_peft_model(load(folder), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
        attach(model if attach_to == "the wrapper" else model.get_base_model(), OTR)
        trainer = trainer_of(model, folder, seed=SEED)
        trainer.train()
        logs.append(entries(trainer))
    assert logs[0] == logs[1] != wanted


def plain_log(folder):
    trainer = trainer_of(load(folder), folder, seed=SEED)
    trainer.train()
    return entries(trainer)


def test_a_trainer_is_as_it_was_after_training_and_after_detach(folder):
    trainer = attach_after(folder)
    state, callbacks = dict(vars(trainer)), list(trainer.callback_handler.callbacks)
    trainer.train()
    assert vars(trainer).keys() - state.keys() <= vars(trainer_run_plain(folder)).keys()
    assert "log" not in vars(trainer)
    assert trainer.callback_handler.callbacks == callbacks
    attached_handle(trainer.model).detach()
    trainer.model.load_state_dict(load(folder).state_dict())
    trainer.optimizer = None
    trainer.train()
    assert entries(trainer) == plain_log(folder)


def trainer_run_plain(folder):
    trainer = trainer_of(load(folder), folder, seed=SEED)
    trainer.train()
    return trainer


def test_training_again_and_searching_hyperparameters(folder, wanted):
    trainer = model_init(folder)
    for _ in range(2):
        trainer.train()
        assert entries(trainer) == wanted
        assert sum(type(one).__name__ == "StepCallback" for one in trainer.callback_handler.callbacks) == 0
    # What a search does for each trial: it sets arguments, the seed among them, after model_init was called.
    trainer.hp_search_backend, trainer._get_output_dir = HPSearchBackend.WANDB, lambda trial: trainer.args.output_dir
    trainer.train(trial={"seed": SEED + 1})
    other = entries(trainer)
    assert other[0]["loss"] == wanted[0]["loss"]
    assert other[0]["otr/hit_rate"] != wanted[0]["otr/hit_rate"], "drawn by the trial's seed"
    trainer.train(trial={"seed": SEED})
    assert entries(trainer) == wanted


def test_a_run_logs_nothing_of_the_run_before(folder):
    """Of four steps, the last is not logged."""
    trainer = trainer_of(load(folder), folder, seed=SEED, logging_steps=3)
    handle, logs = attach(trainer.model, OTR), []
    for _ in range(2):
        trainer.model.load_state_dict(load(folder).state_dict())
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.train()
        logs.append(entries(trainer))
        assert handle.sums, "those of the fourth step"
    assert logs[0] == logs[1]


def test_detaching_within_training(folder, wanted):
    class Detaching(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                attached_handle(trainer.model).detach()

    class Counting(TrainerCallback):
        steps = 0

        def on_step_end(self, args, state, control, **_):
            self.steps += 1

    class Adding(TrainerCallback):
        def on_train_begin(self, *_, **__):  # so that the handler has them after OTR's callback
            trainer.add_callback(Detaching())
            trainer.add_callback(counting)

    trainer, counting = attach_first(folder), Counting()
    before = types.SimpleNamespace(log=trainer.log)
    trainer.add_callback(Adding())
    trainer.train()
    got = entries(trainer)
    assert got[0] == wanted[0]
    assert [len(entry) > 3 for entry in got] == [True, False, False, False], "plain after the second step"
    assert counting.steps == 4, "no callback misses a step"
    assert trainer.log == before.log


def test_predictions_and_metrics_of_evaluation_get_logits(folder):
    trainer = attach_after(folder)
    assert trainer.predict(rows(folder)[:2]).predictions.shape[-1] == 64
    plain = trainer_of(load(folder), folder, seed=SEED).evaluate(rows(folder)[:2])["eval_loss"]
    assert trainer.evaluate(rows(folder)[:2])["eval_loss"] == pytest.approx(plain, rel=2e-6)
    seen = []

    def compute_metrics(prediction):
        seen.append(prediction.predictions.shape[-1])
        return {}

    trainer.compute_metrics = compute_metrics
    trainer.evaluate(rows(folder)[:2])
    assert seen == [64]
    assert not attached_handle(trainer.model).evaluation_needs_logits, "as it was"


def test_a_model_prepared_for_bfloat16_first_or_last(folder):
    batch = {name: value.unsqueeze(0) for name, value in rows(folder)[0].items()}
    gradients = []
    for attach_last in (True, False):
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(mixed_precision="bf16", cpu=True)
        model = load(folder).train()
        if not attach_last:
            attach(model, OTR, seed=SEED)
        model = accelerator.prepare(model)
        if attach_last:
            attach(model, OTR, seed=SEED)
        model(**batch).loss.backward()
        gradients.append(model.lm_head.weight.grad)
        unwrapped = accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        assert unwrapped(**batch).loss.item() == pytest.approx(model(**batch).loss.item(), rel=2**-6)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert torch.equal(*gradients)


def test_a_trainer_that_has_changed_is_refused():
    module = types.ModuleType("transformers.trainer")
    module.Trainer = type("Trainer", (), {name: getattr(Trainer, name) for name in ("train", "log", "add_callback")})
    with pytest.raises(RuntimeError, match=r"looked for evaluate, predict, call_model_init in transformers\.trainer"):
        patch_trainer(module)
