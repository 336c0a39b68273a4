"""A head in another dtype than the hidden states: a trained head in float32, or norms in float32 as with QLoRA."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import linear

from otr_plugin import attach

from .comparison import OTR, SFT, assert_same_gradients, loss_and_gradients, specification_by_autograd
from .families import batch, tiny

PAIRS = [  # hidden states, head
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float16),
    (torch.float32, torch.float16),
]


def converting(head):
    """The head's product as TRL's fused head computes it."""
    return lambda hidden: linear(hidden, head.weight.to(hidden.dtype))


def with_head(hidden, dtype, where):
    model = tiny("llama").to(hidden)
    if where == "modules_to_save":
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]))
        head = model.get_base_model().lm_head.modules_to_save.default
    else:
        head = model.lm_head
    head.to(dtype)
    return model.train(), head


@pytest.mark.parametrize("where", ["the head", "modules_to_save"])
@pytest.mark.parametrize(("hidden", "dtype"), PAIRS, ids=str)
def test_without_autocast_it_trains_as_with_trls_head(hidden, dtype, where):
    model, head = with_head(hidden, dtype, where)
    with pytest.raises(RuntimeError, match="dtype"):
        model(**batch())
    head.forward = converting(head)
    want_loss, want = loss_and_gradients(model, **batch())
    del head.forward
    handle = attach(model, SFT)
    for _ in range(2):  # with the first-step check and without it
        loss, gradients = loss_and_gradients(model, **batch())
        torch.testing.assert_close(loss, want_loss, rtol=1e-2, atol=1e-2)
        assert_same_gradients(gradients, want, tolerance=4 * max(torch.finfo(one).eps for one in (hidden, dtype)))
        assert any("lm_head" in name and gradient.any() for name, gradient in gradients.items())
    assert handle.first_step_report is not None


@pytest.mark.parametrize("where", ["the head", "modules_to_save"])
@pytest.mark.parametrize(("hidden", "dtype"), PAIRS[:2], ids=str)
def test_under_autocast_it_trains_as_the_plain_model(hidden, dtype, where):
    model, _ = with_head(hidden, dtype, where)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want_loss, want = loss_and_gradients(model, **batch())
        attach(model, SFT)
        for _ in range(2):
            loss, gradients = loss_and_gradients(model, **batch())
            torch.testing.assert_close(loss, want_loss, rtol=1e-3, atol=1e-3)
            assert_same_gradients(gradients, want, tolerance=0.03)


def test_otr_equals_the_specification_with_a_float16_head():
    """Hidden states in float32, so that rounding moves no draw."""
    model, head = with_head(torch.float32, torch.float16, "modules_to_save")
    handle = attach(model, OTR)
    _, gradients = loss_and_gradients(model, **batch())
    handle.start_step(0)
    head.forward = converting(head)
    _, want = specification_by_autograd(model, handle, batch(), OTR)
    assert_same_gradients(gradients, want, tolerance=2e-3)
