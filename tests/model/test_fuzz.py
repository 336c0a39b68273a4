"""Random operations on attached models, in any order; docs/attached-model.md holds after each of them.

`make fuzz-python MINUTES=60` searches longer than the tests of every change do.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from benchmarks.fuzz_python.attached import AttachedModel
from otr_plugin.loss import otr_loss
from otr_plugin.model import handle

EXAMPLES = int(os.environ.get("OTR_PLUGIN_FUZZ", "20"))
pytestmark = pytest.mark.filterwarnings("ignore")  # of PEFT about tied heads


def search(examples, phases=(Phase.generate, Phase.shrink)):
    run_state_machine_as_test(
        AttachedModel,
        settings=settings(
            max_examples=examples,
            stateful_step_count=20,
            phases=phases,
            report_multiple_bugs=False,
            deadline=None,
            derandomize=EXAMPLES == 20,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_an_attached_model_keeps_its_contract():
    AttachedModel.operations.clear()
    search(EXAMPLES)
    assert AttachedModel.operations["forward with labels"] > EXAMPLES


def with_loss(monkeypatch, change):
    """Change what the loss function returns to the handle."""
    monkeypatch.setattr(handle, "otr_loss", lambda *args, **kwargs: change(otr_loss(*args, **kwargs)))


@pytest.mark.parametrize("factor", [1.001, 0.0], ids=str)
def test_the_search_sees_a_wrong_gradient(monkeypatch, factor):
    with_loss(monkeypatch, lambda out: out._replace(loss=out.loss * factor))
    with pytest.raises(AssertionError):
        search(4, phases=(Phase.generate,))


def test_the_search_sees_a_wrong_loss(monkeypatch):
    with_loss(monkeypatch, lambda out: out._replace(metrics=out.metrics | {"nll": out.metrics["nll"] * 1.001}))
    with pytest.raises(AssertionError):
        search(4, phases=(Phase.generate,))


def test_the_search_sees_random_numbers_of_the_host(monkeypatch):
    own = handle.Handle._compute_loss

    def wrong(self, *args):
        torch.rand(1)
        return own(self, *args)

    monkeypatch.setattr(handle.Handle, "_compute_loss", wrong)
    with pytest.raises(AssertionError):
        search(4, phases=(Phase.generate,))
