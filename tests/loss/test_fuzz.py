"""Random calls of otr_loss, right ones and mistakes, beside a truth of their own.

`make fuzz-python MINUTES=60` searches longer than the tests of every change do.
"""

import json
import os
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from benchmarks.fuzz_python import judge
from benchmarks.fuzz_python.calls import MISTAKES, WRONG_SETTINGS, Call, Case, calls, cases, is_possible
from benchmarks.fuzz_python.judge import problem_of
from benchmarks.paths import RESULTS
from otr_plugin import OTRConfig
from otr_plugin.loss import otr_loss

EXAMPLES = int(os.environ.get("OTR_PLUGIN_FUZZ", "200"))
pytestmark = pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")  # numpy, in Triton's interpreter
PLAIN = Call(
    positions=6,
    width=4,
    vocabulary=70,
    seed=1,
    dtype="float32",
    size=2.0**-3,
    steps=True,
    labels="all",
    layout="contiguous",
    bias="normal",
    uniforms="float32",
    token_weights=None,
    settings={"samples": 8},
    options={},
    needs_grad=("bias", "hidden", "weight"),
    mode="grad",
    backward="once",
    autocast=None,
    poison=None,
)


def searched(examples):
    return settings(
        max_examples=examples,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        deadline=None,
        derandomize=EXAMPLES == 200,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@searched(EXAMPLES)
@given(cases())
def test_a_call_gives_the_truth_or_one_error(case):
    problem = problem_of(case)
    assert problem is None, f"{problem}\n{case}"


@searched(max(1, EXAMPLES // 20))
@given(cases("triton"))
def test_a_call_with_tritons_kernel_gives_the_truth_or_one_error(case):
    pytest.importorskip("triton")
    problem = problem_of(case)
    assert problem is None, f"{problem}\n{case}"


@pytest.mark.parametrize("mistake", [m for m in MISTAKES if is_possible(m, PLAIN)], ids=repr)
def test_every_mistake_is_refused(mistake):
    assert problem_of(Case(PLAIN, mistake)) is None


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG_SETTINGS.items() for value in values], ids=str
)
def test_every_wrong_setting_is_refused(key, value):
    with pytest.raises(ValueError, match=rf"^OTRConfig: .*\b{key}\b"):
        OTRConfig(**{key: value})


# The judge sees an error, whatever the value that is wrong.


def test_the_judge_finds_nothing_wrong_with_a_right_result():
    assert problem_of(Case(PLAIN)) is None


@pytest.mark.parametrize("factor", [1.0001, torch.nan], ids=str)
def test_the_judge_sees_a_wrong_loss_and_wrong_gradients(monkeypatch, factor):
    def wrong(**arguments):
        out = otr_loss(**arguments)
        return out._replace(loss=out.loss * factor)

    monkeypatch.setattr(judge, "otr_loss", wrong)
    assert "loss" in problem_of(Case(PLAIN))


@pytest.mark.parametrize("name", PLAIN.needs_grad)
def test_the_judge_sees_one_wrong_gradient(monkeypatch, name):
    def wrong(**arguments):
        leaf = arguments[name]
        arguments[name] = leaf * 1.0001 - (leaf * 0.0001).detach()
        return otr_loss(**arguments)

    monkeypatch.setattr(judge, "otr_loss", wrong)
    assert f"gradient of {name}" in problem_of(Case(PLAIN))


@pytest.mark.parametrize("name", judge.truth.METRICS)
def test_the_judge_sees_a_wrong_metric(monkeypatch, name):
    def wrong(**arguments):
        out = otr_loss(**arguments)
        return out._replace(metrics=out.metrics | {name: out.metrics[name] + 0.001})

    monkeypatch.setattr(judge, "otr_loss", wrong)
    assert f"metric {name}" in problem_of(Case(PLAIN))


def test_the_judge_sees_an_error_of_the_specification(monkeypatch):
    own = judge.otr_loss_on_logits

    def wrong(logits, labels, config, **options):
        return own(logits, labels, config.model_copy(update={"beta": config.beta + 1e-6}), **options)

    monkeypatch.setattr(judge, "otr_loss_on_logits", wrong)
    assert "the specification" in problem_of(Case(PLAIN))


def test_the_judge_sees_other_draws():
    other = replace(PLAIN, settings={"samples": 256})
    case = judge.Judge(other, other.arguments())
    case.arguments["uniforms"] = 1 - case.arguments["uniforms"]
    assert case.problem() is not None


def test_most_positions_of_a_call_are_compared():
    """The others hang on a rounding: of large logits, near a cut, or near the number at which they overflow."""
    kept = trained = 0

    @searched(600)
    @given(calls())
    def count(call):
        nonlocal kept, trained
        arguments = call.arguments()
        trained += int((arguments["labels"] != -100).sum())
        kept += len(judge.Judge(call, arguments).rows)

    count()
    assert kept / trained > 2 / 3, f"{kept} of {trained}"


def test_the_kept_search_found_nothing():
    result = json.loads((RESULTS / "fuzz-python.json").read_text())
    assert result["failures"] == 0
    assert result["seconds"] > 30 * 60
    assert all(result["examples"][kind] > 100 for kind in ("torch", "triton", "attach"))
