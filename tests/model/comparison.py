"""Loss and gradients of a model, and the same of the specification, for comparison."""

import torch

from otr_plugin import OTRConfig
from otr_plugin.loss.reference import otr_loss_on_logits

SFT = OTRConfig(objective="sft")
OTR = OTRConfig(samples=16)


def loss_and_gradients(model, **inputs):
    """The loss of one forward, and the gradients of its backward by parameter name."""
    model.zero_grad()
    output = model(**inputs)
    output.loss.backward()
    return output.loss.detach(), gradients_by_name(model)


def gradients_by_name(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, want, tolerance=2e-5):
    """Every parameter's gradient is within `tolerance` of the largest entry of the wanted one."""
    assert got.keys() == want.keys()
    for name in want:
        size = want[name].abs().max().clamp(min=1e-4)
        assert (got[name] - want[name]).abs().max() / size < tolerance, name


def specification_by_autograd(model, handle, inputs, config, num_items=None):
    """Metrics and gradients of the specification on the model's own whole logits. Detaches the model.

    The draws are those of the handle's current step and micro-batch. Auxiliary losses are added as the model adds them.
    """
    labels = torch.nn.functional.pad(inputs["labels"], (0, 1), value=-100)[:, 1:].reshape(-1)
    weights = inputs.get("token_weights")
    if weights is not None:
        weights = torch.nn.functional.pad(weights, (0, 1))[:, 1:].reshape(-1)
    generator = handle.generator(labels.device)
    uniforms = torch.rand(len(labels), config.samples, generator=generator) if config.draws else None
    handle.detach()
    model.zero_grad()
    output = model(**{name: value for name, value in inputs.items() if name not in ("labels", "token_weights")})
    logits = output.logits.reshape(-1, output.logits.shape[-1])
    loss, metrics = otr_loss_on_logits(
        logits, labels, config, uniforms=uniforms, num_items=num_items, token_weights=weights
    )
    if getattr(output, "aux_loss", None) is not None:
        loss = loss + model.config.router_aux_loss_coef * output.aux_loss
    loss.backward()
    return metrics, gradients_by_name(model)
