"""FSDP2 and ZeRO-3 through transformers' Trainer: training, the saved model, and a resumed run."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.distributed.torchrun import run_on_two_ranks
from tests.distributed.trainer_engines import ENGINES, train
from tests.model.families import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    run_on_two_ranks("tests.distributed.trainer_engines", folder)
    train("one process", folder / "one process")
    return folder


def skip_without(engine):
    if engine not in ENGINES:
        pytest.skip("DeepSpeed is not in this environment; `make engines` runs this test")


def parameters(folder):
    """Those of the saved model, loaded without OTR."""
    return dict(AutoModelForCausalLM.from_pretrained(folder / "final").named_parameters())


def log(folder):
    entries = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [{n: v for n, v in e.items() if n in ("loss", "grad_norm") or n.startswith("otr/")} for e in entries[:-1]]


@pytest.mark.parametrize("engine", ["FSDP2", "ZeRO-3"])
def test_two_ranks_train_and_save_as_one_process(folder, engine):
    skip_without(engine)
    start, one, two = (
        dict(tiny("llama").named_parameters()),
        *map(parameters, (folder / "one process", folder / engine)),
    )
    assert two.keys() == one.keys()
    for name in one:
        update, own_update = one[name] - start[name], two[name] - start[name]
        assert (own_update - update).abs().max() < 2e-5 * update.abs().max(), name
    assert len(log(folder / engine)) == 4
    for entry, wanted in zip(log(folder / engine), log(folder / "one process"), strict=True):
        assert entry == pytest.approx(wanted, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize("engine", ["FSDP2", "ZeRO-3"])
def test_a_resumed_run_is_the_unbroken_one(folder, engine):
    skip_without(engine)
    unbroken, resumed = map(parameters, (folder / engine, folder / f"{engine}, resumed"))
    for name in unbroken:
        assert torch.equal(resumed[name], unbroken[name]), name
    assert log(folder / f"{engine}, resumed") == log(folder / engine)
