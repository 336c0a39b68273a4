"""The real script of `trl sft`: its own training with `objective: sft`, metrics too, and OTR's with the defaults."""

import pytest

from otr_plugin.metrics import NAMES, PREFIX
from tests.agreement import losses, same_training

METRICS = {PREFIX + name for name in NAMES}
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1}
SHORT = {"max_steps": 3}
RECIPES = {
    "full": {},
    "accumulated, logged every other step, evaluated": {
        "gradient_accumulation_steps": 2,
        "logging_steps": 2,
        "test_split_size": 0.2,
        "eval_strategy": "steps",
        "eval_steps": 3,
    },
    "LoRA": LORA,
    "QLoRA": LORA | {"load_in_4bit": True} | SHORT,
    "packed": {"packing": True, "max_length": 32, "per_device_train_batch_size": 1} | SHORT,
    "padding-free": {"padding_free": True, "max_length": None} | SHORT,
    "assistant-only": {"data": "chats", "assistant_only_loss": True} | SHORT,
    "chats, all of them": {"data": "chats"} | SHORT,
    "prompt and completion": {"completion_only_loss": False} | SHORT,
    "checkpointed": {"gradient_checkpointing": True} | SHORT,
    "experts, balanced": {"experts": True, "router_aux_loss_coef": 0.1, "gradient_accumulation_steps": 2} | SHORT,
    "loss_type nll": {"loss_type": "nll"} | SHORT,
    "loss_type chunked_nll": {"loss_type": "chunked_nll"} | SHORT,
}
TRLS_OWN = ("entropy", "mean_token_accuracy", "num_tokens", "aux_loss")


@pytest.fixture(scope="module")
def plain(trl):
    """Without so much as the plugin's `.pth`."""
    trl.train_each({f"plain {name}": recipe for name, recipe in RECIPES.items()}, env={"OTR_PLUGIN_AUTOLOAD": "0"})


@pytest.fixture(scope="module")
def ours(trl):
    sft = {"plugins": ["otr"], "otr": {"objective": "sft"}}
    return trl.train_each({f"ours {name}": recipe | sft for name, recipe in RECIPES.items()})


@pytest.mark.parametrize("name", RECIPES)
def test_sft_is_the_hosts_own_training(trl, plain, ours, name):
    assert ours.count("OTR is active: objective sft") == len(RECIPES)
    own, log = trl.log_of(f"plain {name}"), trl.log_of(f"ours {name}")
    assert len(losses(own)) >= 3
    same_training(log, own, norms=5e-5)
    for entry, own_entry in zip(log, own, strict=True):
        for metric in [key for key in own_entry if key.removeprefix("eval_") in (*TRLS_OWN, "loss")]:
            assert entry[metric] == pytest.approx(own_entry[metric], rel=5e-6), metric
        assert entry.keys() >= own_entry.keys()
