"""PEFT adapters on the model and on its output head."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from otr_plugin import OTRConfig, attach
from otr_plugin.model.handle import Handle

from .comparison import OTR, SFT, assert_same_gradients, loss_and_gradients, specification_by_autograd
from .families import batch, tiny


def with_adapter(seed=0, dropout=0.0, name="llama", tied=False, **settings):
    torch.manual_seed(seed)
    settings.setdefault("target_modules", ["q_proj", "v_proj"])
    config = LoraConfig(r=4, lora_alpha=16, lora_dropout=dropout, task_type="CAUSAL_LM", **settings)
    base = tiny(name)
    if tied:
        base.config.tie_word_embeddings = True
        base.tie_weights()
    model = get_peft_model(base, config)
    for parameter_name, parameter in model.named_parameters():
        # lora_B is zero at first, the others are what the base has: errors in the adapter would be hidden.
        if any(part in parameter_name for part in ("lora_B", "trainable_tokens_delta")):
            parameter.data.normal_(std=0.2)
        if "lora_magnitude_vector" in parameter_name:
            parameter.data.mul_(torch.rand_like(parameter) + 0.5)
    return model.train()


ADAPTERS = {
    "on attention": {},
    "on the head too": {"target_modules": ["q_proj", "lm_head"]},
    "on the head, with its bias": {"target_modules": ["lm_head"], "lora_bias": True, "name": "phi, head with bias"},
    "head in modules_to_save": {"modules_to_save": ["lm_head"]},
    "DoRA on the head": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "DoRA on a head with a bias": {"target_modules": ["lm_head"], "use_dora": True, "name": "phi, head with bias"},
    "tokens of a tied head": {"trainable_token_indices": [1, 5, 7], "tied": True},
    "tokens of the embedding": {"trainable_token_indices": [1, 5, 7]},
    "head and embeddings in modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens"]},
}


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS)
def test_objective_sft_equals_the_models_own_loss(settings):
    model, inputs = with_adapter(**settings), batch()
    want_loss, want = loss_and_gradients(model, **inputs)
    handle = attach(model, SFT)
    for _ in range(2):
        loss, gradients = loss_and_gradients(model, **inputs)
        torch.testing.assert_close(loss, want_loss)
        assert_same_gradients(gradients, want)
    handle.detach()


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS)
def test_objective_otr_equals_the_specification_by_autograd(settings):
    model, inputs = with_adapter(**settings), batch()
    handle = attach(model, OTR)
    _, gradients = loss_and_gradients(model, **inputs)
    handle.start_step(0)
    assert_same_gradients(gradients, specification_by_autograd(model, handle, inputs, OTR)[1])


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
def test_dropout_of_an_adapter_on_the_head_is_applied(dora):
    """With the same torch seed OTR draws the model's own dropout mask: the head's adapter is the only one to draw."""
    model, inputs = with_adapter(target_modules=["lm_head"], dropout=0.5, use_dora=dora), batch()
    torch.manual_seed(1)
    want_loss, want = loss_and_gradients(model, **inputs)
    attach(model, SFT)
    for _ in range(2):
        torch.manual_seed(1)
        loss, gradients = loss_and_gradients(model, **inputs)
        torch.testing.assert_close(loss, want_loss)
        assert_same_gradients(gradients, want)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["lm_head"], "use_dora": True},
        {"trainable_token_indices": [1, 5], "tied": True},
    ],
    ids=["LoRA", "DoRA", "tokens"],
)
def test_a_disabled_adapter_on_the_head_has_no_effect(settings):
    model, inputs = with_adapter(**settings), batch()
    with torch.no_grad(), model.disable_adapter():
        want = model(**inputs).loss
        attach(model, SFT)
        torch.testing.assert_close(model(**inputs).loss, want, rtol=1e-5, atol=1e-8)


def test_two_dora_adapters_on_the_head_are_refused():
    model = with_adapter(target_modules=["lm_head"], use_dora=True)
    model.add_adapter("second", LoraConfig(r=4, target_modules=["lm_head"], use_dora=True))
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(
        ValueError, match="the adapter on the model's output head is a DoraLinearVariant; only plain LoRA and one DoRA"
    ):
        attach(model, OTRConfig())


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["q_proj", "lm_head"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}],
    ids=["target_modules", "modules_to_save"],
)
def test_an_adapter_that_replaces_the_head_after_attach_is_refused(settings):
    model = tiny("llama")
    attach(model, SFT)
    adapted = get_peft_model(model, LoraConfig(r=4, **settings))
    with pytest.raises(
        RuntimeError,
        match=r"output head of LlamaForCausalLM was replaced after attach\(\), .* PEFT replaces the head if",
    ):
        adapted.train()(**batch())


def test_an_adapter_elsewhere_than_on_the_head_may_be_added_after_attach():
    model = tiny("llama")
    attach(model, SFT)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"])).train()
    adapted(**batch()).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_a_copy_of_the_head_alone_does_not_copy_the_model():
    """PEFT copies a head that is in modules_to_save."""
    model, before = tiny("llama"), set(Handle.attached)
    handle = attach(model, SFT)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert set(Handle.attached) - before == {handle}
    copied = adapted.base_model.model.lm_head.modules_to_save["default"]
    hidden = torch.randn(2, 32)
    assert torch.equal(copied(hidden), torch.nn.functional.linear(hidden, copied.weight))


def test_a_merged_copy_of_the_head_is_attached_and_detached_like_any_other():
    """PEFT copies an attached head for modules_to_save, and merging makes that copy the model's head."""
    model = tiny("llama")
    handle = attach(model, OTR)
    model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    handle.detach()
    model = model.merge_and_unload()
    plain = model(input_ids=batch()["input_ids"]).logits
    attach(model, SFT).detach()
    assert torch.equal(model(input_ids=batch()["input_ids"]).logits, plain)
