"""LoRA and 4-bit QLoRA. Both runs start from one saved adapter: Axolotl does not seed LoRA's initial weights."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

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


def test_otr_trains_with_qlora(axolotl, saved):
    log, printed = axolotl.train("qlora", plugins=["otr"], otr={"samples": 64}, **QLORA | saved)
    assert "OTR is active: objective otr (64 samples" in printed
    assert all(entry["otr/entropy"] > 0 for entry in log if "loss" in entry)
