"""A value that OTRConfig allows and a kernel does not implement raises there; no other value is computed instead."""

import pytest
import torch

from otr_plugin import otr_loss
from otr_plugin.loss import dispatch, torch_kernel
from otr_plugin.loss.reference import otr_loss_on_logits
from otr_plugin.metrics import ROW_METRICS

from .problems import config_of, problem

UNKNOWN = {
    "objective": "objective 'new' is not implemented; implemented are 'otr', 'dft', 'power', 'eaft', 'sft'",
    "estimator": "estimator 'new' is not implemented; implemented are 'sampled', 'exact'",
    "baseline": "baseline 'new' is not implemented; implemented are 'none', 'mean'",
}
VOCABULARY = 100


def unknown(setting, **settings):
    """A config as it would be if OTRConfig allowed this value: model_copy does not validate."""
    return config_of(settings, 4).model_copy(update={setting: "new"})


def run_reference(config):
    otr_loss_on_logits(torch.zeros(3, VOCABULARY), torch.arange(3), config, uniforms=torch.rand(3, 4))


def run_kernel(compute_chunk, config):
    row_metrics, uniforms = torch.empty(3, len(ROW_METRICS)), torch.rand(3, 4)
    options = {"vocabulary": VOCABULARY, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    compute_chunk(torch.zeros(3, 128), torch.arange(3), uniforms, row_metrics, config, **options)


def run_torch_kernel(config):
    run_kernel(torch_kernel.compute_chunk, config)


def run_triton_kernel(config):
    pytest.importorskip("triton")
    from otr_plugin.loss.triton import launch

    run_kernel(launch.compute_chunk, config)


def run_otr_loss(config):
    p = problem(3, 4, VOCABULARY, samples=4, masked=0)
    otr_loss(p.hidden, p.weight, p.labels, config, uniforms=p.uniforms)


@pytest.mark.parametrize("setting", UNKNOWN)
@pytest.mark.parametrize("run", [run_reference, run_torch_kernel, run_triton_kernel, run_otr_loss])
def test_an_unknown_value_raises_in_every_implementation(run, setting):
    with pytest.raises(NotImplementedError, match=UNKNOWN[setting]):
        run(unknown(setting))


@pytest.mark.parametrize("run", [run_reference, run_torch_kernel, run_triton_kernel, run_otr_loss])
def test_an_unknown_baseline_raises_for_the_exact_estimator_too(run):
    with pytest.raises(NotImplementedError, match=UNKNOWN["baseline"]):
        run(unknown("baseline", estimator="exact"))


def test_draws_raises_for_an_unknown_estimator():
    with pytest.raises(NotImplementedError, match=UNKNOWN["estimator"]):
        _ = unknown("estimator").draws


@pytest.mark.parametrize("name", ["draws", "has_rollout"])
def test_properties_of_the_config_raise_for_an_unknown_objective(name):
    with pytest.raises(NotImplementedError, match=UNKNOWN["objective"]):
        getattr(unknown("objective"), name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_an_unknown_kernel_raises(dtype):
    message = "kernel 'new' is not implemented; implemented are 'auto', 'torch', 'triton'"
    with pytest.raises(NotImplementedError, match=message):
        dispatch.choose_kernel("new", torch.device("cpu"), dtype)
    with pytest.raises(NotImplementedError, match=message):
        run_otr_loss(unknown("kernel"))
