"""Trainer with an attached model, constructed in random ways, trains OTR with the settings given, or raises.

OTR_PLUGIN_FUZZ=2000 searches longer than the tests of every change do.
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from otr_plugin import OTRConfig, attach
from tests.hosts.transformers.test_trainer import trainer_of

EXAMPLES = int(os.environ.get("OTR_PLUGIN_FUZZ", "100"))
SETTINGS = {
    "objective": ["otr", "sft", "dft", "ppo"],
    "estimator": ["sampled", "exact", None],
    "samples": [1, 4, "8", "1e1", 0, True, 2.5, 10**400],
    "temperature": [0.5, 2, "1.5", 0, float("nan")],
    "beta": [-1, 0.5, -1e38, 1],
    "nll_weight": [0, 0.5, 1e39, -1],
    "top_k": [None, "none", 3, 64, 65, 0],
    "top_p": [1, 0.5, 0, 1e-9],
    "baseline": ["none", None, "mean", "median"],
    "chunk_tokens": ["auto", 3, 0],
    "kernel": ["auto", "torch", "triton", "cuda"],
    "sampels": [4],
}
given_settings = st.dictionaries(st.sampled_from(list(SETTINGS)), st.integers(0, 7), max_size=3).map(
    lambda drawn: {name: SETTINGS[name][i % len(SETTINGS[name])] for name, i in drawn.items()}
)


def mean_of_logits(outputs, labels, num_items_in_batch=None):
    return outputs.logits.float().mean()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 100,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(
    given_settings,
    st.sampled_from(["before", "after", "in model_init", "before, without it in model_init"]),
    st.sampled_from([{}, {}, {}, {"label_smoothing_factor": 0.1}, {"compute_loss_func": mean_of_logits}]),
    st.booleans(),
)
def test_a_trainer_trains_what_it_was_given_or_raises(folder, given, order, other_loss, twice):
    def make(attached=True):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder)
        if attached:
            handles.append(attach(model, config))
        return model

    handles, problem = [], None
    try:
        config = OTRConfig(**given)
        if order == "before":
            trainer = trainer_of(make(), folder, max_steps=1, **other_loss)
        elif order == "after":
            trainer = trainer_of(make(attached=False), folder, max_steps=1, **other_loss)
            handles.append(attach(trainer.model, config))
        elif order == "in model_init":
            trainer = trainer_of(None, folder, max_steps=1, model_init=lambda: make(), **other_loss)
        else:
            models = iter([True])
            trainer = trainer_of(
                None, folder, max_steps=1, model_init=lambda: make(attached=next(models, False)), **other_loss
            )
        for _ in range(1 + twice):
            trainer.train()
    except ValueError as error:
        problem = str(error)
    finally:
        for handle in handles:
            handle.detach()

    wrong = other_loss or order == "before, without it in model_init" or not _is_right(given)
    if wrong:
        assert problem is not None, "trains although something is wrong"
        assert problem.startswith(("otr", "OTRConfig: ")), problem
        return
    assert problem is None, problem
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert ("otr/hit_rate" in entry) == config.has_rollout
    assert entry["loss"] == pytest.approx(entry["otr/nll"], rel=1e-3)
    assert trainer.state.stateful_callbacks["OTR"]["attributes"]["settings"] == OTRConfig(**given).model_dump()


def _is_right(given):
    try:
        config = OTRConfig(**given)
    except ValueError:
        return False
    return config.kernel != "triton" and (config.top_k is None or config.top_k <= 64)
