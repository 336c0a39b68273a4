"""bitsandbytes' 4-bit layers, the head among them."""

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model

from otr_plugin import attach

from .families import TINY, batch
from .test_attach import OTR, SFT, by_autograd, same, step


def four_bit_head(compute_dtype=torch.float32):
    """A Llama whose head is quantised; widths that bitsandbytes' CPU path takes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY | {"hidden_size": 64, "head_dim": 16, "vocab_size": 128})).train()
    head = bnb.nn.Linear4bit(64, 128, bias=False, compute_dtype=compute_dtype, quant_type="nf4")
    head.load_state_dict({"weight": model.lm_head.weight.data * 5})
    model.lm_head = head.to("cpu")
    assert model.lm_head.weight.dtype == torch.uint8
    return model


@pytest.mark.parametrize("adapter", [False, True], ids=["alone", "with LoRA"])
def test_a_four_bit_head(adapter):
    model, inputs = four_bit_head(), batch()
    if adapter:
        config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    want_loss, want = step(model, **inputs)
    handle = attach(model, SFT)
    for _ in range(2):
        loss, gradients = step(model, **inputs)
        torch.testing.assert_close(loss, want_loss)
        same(gradients, want)
    handle.detach()
    handle = attach(model, OTR)
    _, gradients = step(model, **inputs)
    handle.start_step(0)
    same(gradients, by_autograd(model, handle, inputs, OTR)[1])


def test_after_an_evaluation_has_repacked_it():
    """bitsandbytes changes the weight's layout in eval mode, on CPUs with bfloat16 instructions."""
    model, inputs = four_bit_head(), batch()
    attach(model, SFT)
    model.eval()
    with torch.no_grad():
        want = model(**inputs).loss
        logits = model(inputs["input_ids"]).logits  # without labels: the head's own forward
        for _ in range(2):
            # Its scales are rounded to bfloat16 then.
            torch.testing.assert_close(model(**inputs).loss, want, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(model(inputs["input_ids"]).logits, logits)
