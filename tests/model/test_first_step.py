"""The first-step check refuses a model whose logits differ from those that OTR computes."""

import pytest
import torch

from otr_plugin import attach

from .comparison import OTR
from .families import batch, tiny


def attached_without_the_models_scale():
    """A Granite, which divides its logits by 3, attached to OTR as if it did not."""
    model = tiny("granite, logits_scaling")
    handle = attach(model, OTR)
    handle.logit_transform = handle.logit_transform._replace(logit_scale=1.0)
    return model


def test_a_model_that_changes_the_heads_output_is_refused_with_both_numbers():
    model, inputs = attached_without_the_models_scale(), batch()
    with pytest.raises(
        RuntimeError, match=r"differ from the model's own by .*The NLL is \d+\.\d+ by OTR and \d+\.\d+ by the model"
    ):
        model(**inputs)


def test_a_batch_without_a_trained_token_is_checked_too():
    model, inputs = attached_without_the_models_scale(), batch()
    with pytest.raises(RuntimeError, match="differ from the model's own by"):
        model(**inputs | {"labels": torch.full_like(inputs["labels"], -100)})


def test_a_batch_without_a_trained_token_may_have_hidden_states_that_are_not_finite():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR)
    nothing = torch.full_like(inputs["labels"], -100)
    undo = model.model.norm.register_forward_hook(lambda *_: torch.full((3, 11, 32), torch.nan))
    assert model(**inputs | {"labels": nothing}).loss == 0
    assert handle.first_step_report is not None
    undo.remove()


def test_a_mismatch_that_is_caught_is_found_again():
    model, inputs = attached_without_the_models_scale(), batch()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="differ from the model's own by"):
            model(**inputs)


def test_the_report_says_what_was_compared():
    model = tiny("llama")
    handle = attach(model, OTR)
    assert handle.first_step_report is None
    model(**batch())
    report = handle.first_step_report
    assert report.positions == 8
    assert 0 <= report.logit_error < 1e-4
    assert report.describe() == (
        "OTR's first-step check passed: at 8 trained positions, the logits differ from the model's own by at most "
        f"{report.logit_error:.1e} of the largest one, and the NLL by {report.nll_error:.1e}"
    )
    model(**batch(seed=1))
    assert handle.first_step_report is report, "once"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_own_logits_are_not_finite_is_refused_as_such(value):
    model = tiny("llama")
    attach(model, OTR)
    with torch.no_grad():
        model.model.norm.weight[0] = value
    with pytest.raises(RuntimeError, match="LlamaForCausalLM's own logits are not finite"):
        model(**batch())
