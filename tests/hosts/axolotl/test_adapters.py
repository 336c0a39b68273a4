"""LoRA and 4-bit QLoRA. Both runs start from one saved adapter: Axolotl does not seed LoRA's initial weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.hosts.driver import make_model
from tests.hosts.agreement import losses, same_training

LORA = {
    "adapter": "lora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": ["q_proj", "v_proj"],
}
QLORA = LORA | {"adapter": "qlora", "load_in_4bit": True}


@pytest.fixture(scope="module")
def saved(axolotl):
    folder = axolotl.folder / "adapter"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(axolotl.folder / "model")
    config = LoraConfig(
        r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    get_peft_model(model, config).save_pretrained(folder)
    return {"lora_model_dir": str(folder)}


@pytest.mark.parametrize("adapter", [LORA, QLORA], ids=["lora", "qlora"])
def test_sft_is_the_hosts_own_training(axolotl, saved, adapter):
    recipe = adapter | saved | {"sample_packing": True, "sequence_len": 128, "gradient_accumulation_steps": 2}
    plain, _ = axolotl.train("plain", **recipe)
    ours, printed = axolotl.train("ours", plugins=["otr"], otr={"objective": "sft"}, **recipe)
    assert "OTR is active: objective sft" in printed
    same_training(ours, plain, norms=2e-5)
    assert losses(plain)[-1][0] < losses(plain)[0][0], "nothing was learnt"


@pytest.mark.parametrize(
    ("keys", "config"),
    [
        (
            {"lora_target_modules": ["q_proj", "lm_head"], "peft_use_dora": True},
            {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
        ),
        (
            {"lora_target_modules": ["q_proj"], "peft_trainable_token_indices": [31, 32, 41]},
            {"target_modules": ["q_proj"], "trainable_token_indices": [31, 32, 41]},
        ),
    ],
    ids=["DoRA on the head", "tokens of a tied head"],
)
def test_adapters_that_train_the_head(axolotl, keys, config):
    tied = "trainable_token_indices" in config
    model, adapter = axolotl.folder / f"base, tied {tied}", axolotl.folder / f"adapter, tied {tied}"
    make_model(model, tie_word_embeddings=tied)
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, task_type="CAUSAL_LM", **config)
    peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    peft_model.save_pretrained(adapter, save_embedding_layers=False)
    recipe = LORA | keys | {"lora_dropout": 0, "base_model": str(model), "lora_model_dir": str(adapter)}
    plain, _ = axolotl.train("plain", **recipe)
    ours, printed = axolotl.train("ours", plugins=["otr"], otr={"objective": "sft"}, **recipe)
    assert f"inside the trained {'TrainableTokensWrapper' if tied else 'Linear'} head" in printed
    same_training(ours, plain, norms=2e-5)


def test_otr_trains_with_qlora(axolotl, saved):
    log, printed = axolotl.train("qlora", plugins=["otr"], otr={"samples": 64}, **QLORA | saved)
    assert "OTR is active: objective otr (64 samples" in printed
    assert all(entry["otr/entropy"] > 0 for entry in log if "loss" in entry)
