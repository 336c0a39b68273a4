"""OTRConfig has the documented defaults, and explains in its error what a wrong setting may be instead."""

import re

import pytest
from pydantic import ValidationError

from otr_plugin import OTRConfig
from otr_plugin.config import OBJECTIVES

KEYS = (
    "objective, estimator, samples, temperature, beta, alpha, nll_weight, min_label_prob, max_label_prob, top_k, top_p, "
    "baseline, chunk_tokens, kernel"
)


def test_defaults_are_the_documented_ones():
    assert OTRConfig().model_dump() == {
        "objective": "otr",
        "estimator": "sampled",
        "samples": 256,
        "temperature": 1.3,
        "beta": -0.1,
        "alpha": 1.0,
        "nll_weight": 0.0,
        "min_label_prob": 0.0,
        "max_label_prob": 1.0,
        "top_k": None,
        "top_p": 1.0,
        "baseline": "none",
        "chunk_tokens": "auto",
        "kernel": "auto",
    }


def test_every_setting_has_a_description():
    assert all(field.description for field in OTRConfig.model_fields.values())
    assert ", ".join(OTRConfig.model_fields) == KEYS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "objective should be 'otr', 'dft', 'power', 'eaft' or 'sft', got 'ppo'"),
        ({"estimator": "mc"}, "estimator should be 'sampled' or 'exact', got 'mc'"),
        ({"samples": 0}, "samples should be greater than or equal to 1, got 0"),
        ({"samples": 65537}, "samples should be less than or equal to 65536, got 65537"),
        ({"samples": 2.5}, "samples should be a whole number, got 2.5"),
        ({"samples": True}, "samples should be a number, not true or false, got True"),
        ({"temperature": 0}, "temperature should be greater than or equal to 0.01, got 0"),
        ({"temperature": 101}, "temperature should be less than or equal to 100, got 101"),
        ({"temperature": float("nan")}, "temperature should be a finite number, got nan"),
        ({"temperature": "hot"}, "temperature should be a number, got 'hot'"),
        ({"temperature": 10**400}, f"temperature should be a finite number, got 1{'0' * 76}..."),
        ({"samples": 10**5000}, "samples should be a finite number, got a number of thousands of digits"),
        ({"samples": "16.5"}, "samples should be a whole number, got '16.5'"),
        ({"beta": 1}, "beta should be less than 1, got 1"),
        ({"beta": float("-inf")}, "beta should be a finite number, got -inf"),
        ({"beta": None}, "beta should be a number, got None"),
        ({"beta": -101}, "beta should be greater than or equal to -100, got -101"),
        ({"nll_weight": -0.1}, "nll_weight should be greater than or equal to 0, got -0.1"),
        ({"nll_weight": 1e39}, "nll_weight should be less than or equal to 100, got 1e+39"),
        ({"nll_weight": float("inf")}, "nll_weight should be a finite number, got inf"),
        ({"top_k": 0}, "top_k should be greater than or equal to 1, got 0"),
        ({"top_p": 0}, "top_p should be greater than 0, got 0"),
        ({"top_p": 1.01}, "top_p should be less than or equal to 1, got 1.01"),
        ({"baseline": "median"}, "baseline should be 'none' or 'mean', got 'median'"),
        ({"chunk_tokens": 0}, "chunk_tokens should be 'auto' or greater than or equal to 1, got 0"),
        ({"chunk_tokens": "big"}, "chunk_tokens should be 'auto' or a whole number, got 'big'"),
        ({"kernel": "cuda"}, "kernel should be 'auto', 'torch' or 'triton', got 'cuda'"),
        ({"tempratur": 1}, f"unknown key 'tempratur': did you mean 'temperature'? the keys are {KEYS}"),
        ({"lr": 1}, f"unknown key 'lr': the keys are {KEYS}"),
        (
            {"s\u0430mples": 1},
            f"unknown key 's\u0430mples': did you mean 'samples'? It contains CYRILLIC SMALL LETTER A; the keys are {KEYS}",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_wrong_setting_raises_this_message(settings, message):
    with pytest.raises(ValueError, match=f"^OTRConfig: {re.escape(message)}$") as raised:
        OTRConfig(**settings)
    assert not isinstance(raised.value, ValidationError)


def test_one_error_names_every_problem():
    with pytest.raises(ValueError, match=r"(?s)samples should.*beta should.*unknown key 'x'"):
        OTRConfig(samples=0, beta=2, x=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples should be"),
        ({"K": 1}, "unknown key 'K'"),
        ({"estimator": "exact", "samples": 16}, "samples: 16 has no effect"),
    ],
)
def test_model_validate_raises_the_same_messages(settings, message):
    with pytest.raises(ValueError, match=message):
        OTRConfig.model_validate(settings)


ROLLOUT = {
    "estimator": "exact",
    "samples": 16,
    "temperature": 2.0,
    "beta": -0.5,
    "top_k": 4,
    "top_p": 0.5,
    "baseline": "mean",
}


@pytest.mark.parametrize(
    ("key", "value", "without"),
    [("samples", 16, {"estimator": "exact"})]
    + [("alpha", 0.5, {"objective": objective}) for objective in ("otr", "dft", "sft")]
    + [(key, value, {"objective": objective}) for key, value in ROLLOUT.items() for objective in OBJECTIVES[1:]],
)
def test_a_setting_without_effect_is_refused(key, value, without):
    (name, other) = next(iter(without.items()))
    with pytest.raises(ValueError, match=f"^OTRConfig: {key}: {value} has no effect with `{name}: {other}`: remove it"):
        OTRConfig(**without, **{key: value})
    assert OTRConfig(**without, **{key: OTRConfig.model_fields[key].default}) == OTRConfig(**without)


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (0.9, 0.1)])
def test_thresholds_that_leave_no_position_are_refused(thresholds):
    low, high = thresholds
    message = f"^OTRConfig: min_label_prob should be less than max_label_prob, got {low} and {high}: no position would"
    with pytest.raises(ValueError, match=message):
        OTRConfig(min_label_prob=low, max_label_prob=high)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({"samples": 1}, "at least 2"),
        ({"top_k": 1}, "at least 2"),
        ({"estimator": "exact", "top_k": 1}, "at least 2"),
        ({"top_p": 0.09}, "at least 0.1"),
    ],
    ids=str,
)
def test_a_baseline_that_equals_every_reward_is_refused(settings, allowed):
    key = list(settings)[-1]
    with pytest.raises(ValueError, match=f"^OTRConfig: {key} should be {allowed} with `baseline: mean`, got "):
        OTRConfig(baseline="mean", **settings)
    assert OTRConfig(**settings)


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("samples", "1e3", 1000),  # YAML reads it as text
        ("samples", "16", 16),
        ("samples", 16.0, 16),
        ("chunk_tokens", "1e3", 1000),
        ("beta", "-1e-2", -0.01),
        *(("top_k", none, None) for none in (None, "none", "None", "null", "~", "")),
        ("baseline", None, "none"),  # Axolotl's command line reads the word as None
    ],
)
def test_text_means_what_a_person_reads(key, written, value):
    assert getattr(OTRConfig(**{key: written}), key) == value


@pytest.mark.parametrize(
    "settings",
    [
        {"samples": 65536, "beta": 0.999, "top_p": 1e-9},
        {"temperature": 0.01},
        {"temperature": 100, "beta": -50, "top_k": 1, "chunk_tokens": 1},
    ],
    ids=str,
)
def test_values_at_the_bounds_are_allowed(settings):
    assert OTRConfig(**settings).model_dump(include=set(settings)) == settings


def test_a_config_is_immutable_and_hashable():
    with pytest.raises(ValidationError, match="frozen"):
        OTRConfig().samples = 1
    assert hash(OTRConfig()) == hash(OTRConfig())
