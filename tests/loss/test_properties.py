"""A search by hypothesis for shapes, values and settings where otr_loss differs from the specification."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_plugin import OTRConfig

from .problems import actual, error, native, problem, truth, units

configs = st.builds(
    OTRConfig.model_construct,  # without validation: the loss is right also with settings that have no effect
    objective=st.sampled_from(["otr"] * 4 + ["dft", "power", "eaft", "sft"]),
    alpha=st.floats(1e-6, 10),
    estimator=st.sampled_from(["sampled", "exact"]),
    samples=st.integers(1, 40),
    temperature=st.floats(0.1, 10),
    beta=st.floats(-2, 0.9),
    nll_weight=st.sampled_from([0.0, 0.3]),
    top_k=st.none() | st.integers(1, 200),
    top_p=st.just(1.0) | st.floats(0.05, 0.99),
    baseline=st.sampled_from(["none", "mean"]),
    chunk_tokens=st.just("auto") | st.integers(1, 20),
)


@st.composite
def problems(draw, samples, dtype):
    options = {}
    sharpness = draw(st.sampled_from([0.01, 1.0, 3.0, 30.0]))
    if draw(st.booleans()):
        # A lower cap would make many logits equal but for rounding, which would decide which of them top_k keeps.
        options["softcap"] = draw(st.floats(2 * sharpness, 20 * sharpness))
    if draw(st.booleans()):
        options["logit_scale"] = draw(st.floats(0.05, 4))
    if draw(st.booleans()):
        options["num_items"] = draw(st.integers(1, 1000))
    return problem(
        draw(st.integers(0, 24)),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 300)),
        samples=samples,
        bias=draw(st.booleans()),
        masked=draw(st.sampled_from([0, 0.5, 1])),
        sharpness=sharpness,
        seed=draw(st.integers(0, 10**6)),
        dtype=dtype,
        **options,
    )


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.data(), configs)
def test_float64_matches_the_specification(data, config):
    p = data.draw(problems(config.samples, torch.float64))
    want, got, unit = truth(p, config), actual(p, config, torch.float64), units(p)
    assert error(got.loss, want.loss, 1) < 1e-11
    for name, gradient in got.gradients.items():
        assert error(gradient, want.gradients[name], unit[name]) < 1e-11
    for name, value in got.metrics.items():
        assert error(value, want.metrics[name], 1) < 1e-11


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data(), configs.filter(lambda c: not c.draws and c.top_p == 1))
def test_float32_is_as_accurate_as_whole_logits(data, config):
    # Draws and top_p are left out, because rounding decides about a draw at the edge of a bin.
    p = data.draw(problems(config.samples, torch.float32))
    want, native_result, got, unit = (
        truth(p, config),
        native(p, config, torch.float32),
        actual(p, config, torch.float32),
        units(p),
    )
    assert error(got.loss, want.loss, 1) <= 2 * error(native_result.loss, want.loss, 1) + 5e-6
    for name, gradient in got.gradients.items():
        allowed = 2 * error(native_result.gradients[name], want.gradients[name], unit[name]) + 5e-6
        assert error(gradient, want.gradients[name], unit[name]) <= allowed
