"""Output heads quantised to 4 bits by bitsandbytes."""

import bitsandbytes as bnb
import pytest
import torch
from peft import LoraConfig, get_peft_model

from otr_plugin import attach

from .comparison import OTR, SFT, assert_same_gradients, loss_and_gradients, specification_by_autograd
from .families import TINY, batch


def model_with_four_bit_head(compute_dtype=torch.float32):
    """A Llama whose head alone is quantised. bitsandbytes' CPU code needs widths that are multiples of 64."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TINY | {"hidden_size": 64, "head_dim": 16, "vocab_size": 128})).train()
    head = bnb.nn.Linear4bit(64, 128, bias=False, compute_dtype=compute_dtype, quant_type="nf4")
    head.load_state_dict({"weight": model.lm_head.weight.data * 5})
    model.lm_head = head.to("cpu")
    assert model.lm_head.weight.dtype == torch.uint8
    return model


@pytest.mark.parametrize("adapter", [False, True], ids=["alone", "with LoRA"])
def test_a_four_bit_head_trains_with_the_right_gradients(adapter):
    model, inputs = model_with_four_bit_head(), batch()
    if adapter:
        config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    want_loss, want = loss_and_gradients(model, **inputs)
    handle = attach(model, SFT)
    for _ in range(2):
        loss, gradients = loss_and_gradients(model, **inputs)
        torch.testing.assert_close(loss, want_loss)
        assert_same_gradients(gradients, want)
    handle.detach()
    handle = attach(model, OTR)
    _, gradients = loss_and_gradients(model, **inputs)
    handle.start_step(0)
    assert_same_gradients(gradients, specification_by_autograd(model, handle, inputs, OTR)[1])


def test_a_head_whose_weight_was_repacked_in_eval_mode_is_read_correctly():
    """On CPUs with bfloat16 instructions, bitsandbytes repacks the weight in a forward in eval mode."""
    model, inputs = model_with_four_bit_head(), batch()
    attach(model, SFT)
    model.eval()
    with torch.no_grad():
        want = model(**inputs).loss
        logits = model(inputs["input_ids"]).logits  # without labels, so the head's own forward runs and repacks
        for _ in range(2):
            # Repacking rounds the quantisation scales to bfloat16.
            torch.testing.assert_close(model(**inputs).loss, want, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(model(inputs["input_ids"]).logits, logits)
