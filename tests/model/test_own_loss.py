"""Models that compute their loss by themselves: OTR's `sft` is that loss, and OTR's gradient is autograd's."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from otr_plugin import OTRConfig, attach

from .families import SIGHT, TINY, batch
from .test_attach import by_autograd, same, step

EXPERTS = {"num_local_experts": 4, "intermediate_size_mlp": 48, "num_experts_per_tok": 1}
STATES = {"state_size": 8, "tie_word_embeddings": False}
MODELS = {
    "gemma3": {"text_config": TINY, "vision_config": SIGHT, "mm_tokens_per_image": 4},
    "llama4": {
        "text_config": TINY | EXPERTS,
        "vision_config": SIGHT | {"vision_output_dim": 32, "pixel_shuffle_ratio": 0.5},
    },
    "mamba": TINY | STATES,
    "falcon_mamba": TINY | STATES,
    "modernbert-decoder": TINY | {"attention_dropout": 0.0, "cls_token_id": 1, "sep_token_id": 2},
}
MASKED = ("gemma3", "llama4")


def small(kind):
    config = AutoConfig.for_model(kind, **MODELS[kind])
    auto = AutoModelForImageTextToText if kind in MASKED else AutoModelForCausalLM
    torch.manual_seed(0)
    return auto.from_config(config, attn_implementation="eager").float().train()


def padded():
    """The second row's end is padding, in the mask alone: its labels are still there."""
    inputs = batch()
    inputs["attention_mask"][1, -4:] = 0
    return inputs


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_sft_is_the_models_own_loss(kind):
    model = small(kind)
    for inputs in (batch(), padded()):
        want_loss, want = step(model, **inputs)
        handle = attach(model, OTRConfig(objective="sft"))
        for _ in range(2):  # with the first step's check, and without
            loss, gradients = step(model, **inputs)
            torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
            same(gradients, want, 5e-5)
        assert handle.take_metrics()["otr/nll"] == pytest.approx(want_loss.item(), rel=1e-5)
        handle.detach()
        assert torch.equal(step(model, **inputs)[0], want_loss)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_otr_is_autograds_on_whole_logits(kind):
    model, inputs, config = small(kind), batch(), OTRConfig(samples=16)
    handle = attach(model, config)
    model(**inputs)  # the first step's check has the model's own logits
    assert model(**inputs).logits.shape == (3, 11, 1)  # from then on there are none
    loss, gradients = step(model, **inputs)
    handle.start_step(0)
    handle.micro_batch = 2
    metrics, want = by_autograd(model, handle, inputs, config)
    same(gradients, want, 5e-5)
    assert loss.item() == pytest.approx((metrics["nll"] / metrics["tokens"]).item(), rel=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_what_the_mask_leaves_out_is_trained_only_where_the_model_trains_it(kind):
    model, inputs = small(kind), padded()
    inputs["labels"] = torch.where(inputs["attention_mask"] == 0, 5, -100)
    attach(model, OTRConfig(objective="sft"))
    assert (model(**inputs).loss.item() == 0) == (kind in MASKED)


@pytest.mark.filterwarnings("ignore")
def test_only_a_forward_that_is_known_is_given_a_loss():
    """FSDP makes a subclass of a class, which changes nothing; one with a forward of its own may do anything."""
    model, inputs = small("gemma3"), batch()
    want, _ = step(model, **inputs)
    own = type(model)
    model.__class__ = type(f"FSDP{own.__name__}", (own,), {})
    handle = attach(model, OTRConfig(objective="sft"))
    torch.testing.assert_close(step(model, **inputs)[0], want, rtol=1e-5, atol=1e-6)
    handle.detach()

    class Doubled(own):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.loss = 2 * output.loss
            return output

    model.__class__ = Doubled
    attach(model, OTRConfig(objective="sft"))
    with pytest.raises(
        RuntimeError, match="Doubled failed between its output head, which OTR replaces, and its loss_fun"
    ):
        step(model, **inputs)
