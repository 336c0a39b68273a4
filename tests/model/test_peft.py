"""Adapters around the model, and on its head."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from otr_plugin import OTRConfig, attach

from .families import batch, tiny
from .test_attach import OTR, SFT, by_autograd, same, step


def adapted(seed=0, dropout=0.0, name="llama", **settings):
    torch.manual_seed(seed)
    settings.setdefault("target_modules", ["q_proj", "v_proj"])
    config = LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(tiny(name), config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(std=0.2)
    return model.train()


KINDS = {
    "on attention": {},
    "on the head too": {"target_modules": ["q_proj", "lm_head"]},
    "on the head, with its bias": {"target_modules": ["lm_head"], "lora_bias": True, "name": "phi, head with bias"},
    "head in modules_to_save": {"modules_to_save": ["lm_head"]},
    "head and embeddings in modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_sft_is_the_models_own_loss(settings):
    model, inputs = adapted(**settings), batch()
    want_loss, want = step(model, **inputs)
    handle = attach(model, SFT)
    for _ in range(2):
        loss, gradients = step(model, **inputs)
        torch.testing.assert_close(loss, want_loss)
        same(gradients, want)
    handle.detach()


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_otr_is_autograds_on_whole_logits(settings):
    model, inputs = adapted(**settings), batch()
    handle = attach(model, OTR)
    _, gradients = step(model, **inputs)
    handle.start_step(0)
    same(gradients, by_autograd(model, handle, inputs, OTR)[1])


def test_dropout_on_the_heads_adapter():
    """The same mask for both: the head's adapter is the last to draw one."""
    model, inputs = adapted(target_modules=["lm_head"], dropout=0.5), batch()
    torch.manual_seed(1)
    want_loss, want = step(model, **inputs)
    attach(model, SFT)
    for _ in range(2):
        torch.manual_seed(1)
        loss, gradients = step(model, **inputs)
        torch.testing.assert_close(loss, want_loss)
        same(gradients, want)


def test_an_adapter_that_is_switched_off():
    model, inputs = adapted(target_modules=["lm_head"], modules_to_save=None), batch()
    with torch.no_grad(), model.disable_adapter():
        want = model(**inputs).loss
        attach(model, SFT)
        assert torch.equal(model(**inputs).loss, want) or torch.allclose(model(**inputs).loss, want)


def test_dora_on_the_head_is_refused():
    model = adapted(target_modules=["lm_head"], use_dora=True)
    with pytest.raises(
        ValueError, match="the adapter on the model's output head is a DoraLinearVariant; only plain LoRA"
    ):
        attach(model, OTRConfig())


def test_an_adapter_put_there_afterwards():
    """On the head it is refused; elsewhere it trains."""
    for settings in ({"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}):
        model = tiny("llama")
        attach(model, SFT)
        late = get_peft_model(model, LoraConfig(r=4, **({"target_modules": ["q_proj"]} | settings)))
        with pytest.raises(
            RuntimeError, match=r"has another output head than when attach\(\) was called: PEFT puts one"
        ):
            late.train()(**batch())
    attach(model := tiny("llama"), SFT)
    late = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).train()
    late(**batch()).loss.backward()
    assert all(p.grad is not None for p in late.parameters() if p.requires_grad)
