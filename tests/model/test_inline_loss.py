"""Models whose forward computes the loss inline: OTR replaces that loss, and equals it with objective sft."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from otr_plugin import OTRConfig, attach
from otr_plugin.model.no_logits import NO_LOGITS

from .comparison import assert_same_gradients, loss_and_gradients, specification_by_autograd
from .families import TINY, TINY_VISION, batch

EXPERTS = {"num_local_experts": 4, "intermediate_size_mlp": 48, "num_experts_per_tok": 1}
STATE_SPACE = {"state_size": 8, "tie_word_embeddings": False}
MODELS = {
    "gemma3": {"text_config": TINY, "vision_config": TINY_VISION, "mm_tokens_per_image": 4},
    "llama4": {
        "text_config": TINY | EXPERTS,
        "vision_config": TINY_VISION | {"vision_output_dim": 32, "pixel_shuffle_ratio": 0.5},
    },
    "mamba": TINY | STATE_SPACE,
    "falcon_mamba": TINY | STATE_SPACE,
    "modernbert-decoder": TINY | {"attention_dropout": 0.0, "cls_token_id": 1, "sep_token_id": 2},
}
IGNORES_MASKED_TOKENS = ("gemma3", "llama4")  # these two also take images


def small(kind):
    config = AutoConfig.for_model(kind, **MODELS[kind])
    auto = AutoModelForImageTextToText if kind in IGNORES_MASKED_TOKENS else AutoModelForCausalLM
    torch.manual_seed(0)
    return auto.from_config(config, attn_implementation="eager").float().train()


def padded():
    """A batch whose second row ends in padding by the attention mask alone: the labels there are tokens."""
    inputs = batch()
    inputs["attention_mask"][1, -4:] = 0
    return inputs


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_objective_sft_equals_the_models_own_loss(kind):
    model = small(kind)
    for inputs in (batch(), padded()):
        want_loss, want = loss_and_gradients(model, **inputs)
        handle = attach(model, OTRConfig(objective="sft"))
        for _ in range(2):  # the first forward includes the first-step check, the second does not
            loss, gradients = loss_and_gradients(model, **inputs)
            torch.testing.assert_close(loss, want_loss, rtol=1e-5, atol=1e-6)
            assert_same_gradients(gradients, want, 5e-5)
        assert handle.take_metrics()["otr/nll"] == pytest.approx(want_loss.item(), rel=1e-5)
        handle.detach()
        assert torch.equal(loss_and_gradients(model, **inputs)[0], want_loss)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_objective_otr_equals_the_specification_by_autograd(kind):
    model, inputs, config = small(kind), batch(), OTRConfig(samples=16)
    handle = attach(model, config)
    model(**inputs)  # with the first-step check, which has the model's own logits at a few positions
    assert model(**inputs).logits is NO_LOGITS
    loss, gradients = loss_and_gradients(model, **inputs)
    handle.start_step(0)
    handle.micro_batch = 2
    metrics, want = specification_by_autograd(model, handle, inputs, config)
    assert_same_gradients(gradients, want, 5e-5)
    assert loss.item() == pytest.approx((metrics["nll"] / metrics["tokens"]).item(), rel=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_masked_positions_are_trained_only_where_the_models_own_loss_trains_them(kind):
    model, inputs = small(kind), padded()
    inputs["labels"] = torch.where(inputs["attention_mask"] == 0, 5, -100)
    attach(model, OTRConfig(objective="sft"))
    assert (model(**inputs).loss.item() == 0) == (kind in IGNORES_MASKED_TOKENS)


@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_inserted_only_if_transformers_defines_the_forward():
    """A subclass without a forward of its own, such as FSDP makes, is supported; one with its own is refused."""
    model, inputs = small("gemma3"), batch()
    want, _ = loss_and_gradients(model, **inputs)
    transformers_class = type(model)
    model.__class__ = type(f"FSDP{transformers_class.__name__}", (transformers_class,), {})
    handle = attach(model, OTRConfig(objective="sft"))
    torch.testing.assert_close(loss_and_gradients(model, **inputs)[0], want, rtol=1e-5, atol=1e-6)
    handle.detach()

    class Doubled(transformers_class):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.loss = 2 * output.loss
            return output

    model.__class__ = Doubled
    attach(model, OTRConfig(objective="sft"))
    with pytest.raises(
        RuntimeError, match="Doubled failed after its output head, where OTR computes the loss, and before it called"
    ):
        loss_and_gradients(model, **inputs)
