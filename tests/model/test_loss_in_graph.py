"""The autograd graph leads from the loss through the output of the head and of its parts, as engines need it."""

import gc
import weakref

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from otr_plugin import attach

from .comparison import OTR, assert_same_gradients, gradients_by_name, loss_and_gradients
from .families import batch, tiny
from .test_peft import with_adapter

# Without DoRA: PEFT itself reads the weights of its modules outside their calls.
HEADS = {
    "trained": lambda: tiny("llama"),
    "tied": lambda: tiny("llama, tied"),
    "with a bias": lambda: tiny("phi, head with bias"),
    "softcap": lambda: tiny("gemma2, softcap"),
    "experts": lambda: tiny("mixtral, auxiliary loss"),
    "LoRA": lambda: with_adapter(target_modules=["q_proj", "lm_head"]),
    "LoRA with a bias": lambda: with_adapter(target_modules=["lm_head"], lora_bias=True, name="phi, head with bias"),
    "modules_to_save": lambda: with_adapter(modules_to_save=["lm_head"]),
}


def shard(model):
    """Hooks of a small engine: the weights of a module exist during its own call, and from its backward on."""
    whole = {parameter: parameter.data for parameter in model.parameters()}

    def gather(module, *_):
        for parameter in module.parameters(recurse=False):
            parameter.data = whole[parameter]

    def release(module, inputs, output):
        for tensor in output if isinstance(output, tuple) else (output,):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: gather(module))
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.empty(0)

    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(gather)
            module.register_forward_hook(release)
            release(module, (), ())


@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_a_model_whose_weights_exist_only_in_their_modules_calls(make):
    model, inputs = make(), batch()
    attach(model, OTR)
    wanted = [loss_and_gradients(model, **inputs) for _ in range(2)]
    model = make()
    attach(model, OTR)
    shard(model)
    for want_loss, want in wanted:
        loss, gradients = loss_and_gradients(model, **inputs)
        assert torch.equal(loss, want_loss)
        assert_same_gradients(gradients, want, tolerance=1e-6)


def test_backward_twice_and_a_scaled_loss():
    model, inputs = tiny("gemma2, softcap"), batch()
    handle = attach(model, OTR)
    _, once = loss_and_gradients(model, **inputs)
    handle.start_step(0)
    model.zero_grad()
    loss = model(**inputs).loss
    (3 * loss).backward(retain_graph=True)
    loss.backward()
    assert_same_gradients(gradients_by_name(model), {name: 4 * gradient for name, gradient in once.items()})


def test_gradient_checkpointing_around_the_head():
    model, inputs = tiny("llama"), batch()
    handle = attach(model, OTR)
    _, want = loss_and_gradients(model, **inputs)
    metrics = handle.take_metrics()
    handle.start_step(0)
    forward = model.lm_head.forward
    model.lm_head.forward = lambda hidden: checkpoint(forward, hidden, use_reentrant=False)
    _, gradients = loss_and_gradients(model, **inputs)
    assert_same_gradients(gradients, want)
    assert handle.take_metrics() == metrics
    model.lm_head.forward = lambda hidden: checkpoint(forward, hidden, use_reentrant=True)
    with pytest.raises(RuntimeError, match="reentrant gradient checkpointing surrounds the head"):
        model(**inputs)


def test_a_model_that_detaches_its_logits_is_refused():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    loss_function = model.loss_function
    model.loss_function = lambda logits, *args, **kwargs: loss_function(logits.detach(), *args, **kwargs)
    with pytest.raises(RuntimeError, match="the model detaches its logits from the output of its head"):
        model(**inputs)


def test_a_weight_that_was_not_gathered_is_not_read():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    model.lm_head.weight.data = torch.empty(0)
    with pytest.raises(RuntimeError, match=r"its weight is still sharded \(of shape \[0\]\)"):
        model(**inputs)


def test_a_forward_leaves_nothing_behind():
    model, inputs = tiny("llama"), batch()
    attach(model, OTR)
    gc.disable()
    try:
        hidden = []
        model.lm_head.register_forward_pre_hook(lambda module, args: hidden.append(weakref.ref(args[0])))
        model(**inputs)
        assert hidden[0]() is None, "a cycle of references keeps the graph"
    finally:
        gc.enable()
