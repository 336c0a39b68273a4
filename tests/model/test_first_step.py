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


def test_the_check_waits_for_a_batch_with_a_trained_token():
    model, inputs = attached_without_the_models_scale(), batch()
    model(**inputs | {"labels": torch.full_like(inputs["labels"], -100)})
    with pytest.raises(RuntimeError, match="differ from the model's own by"):
        model(**inputs)
