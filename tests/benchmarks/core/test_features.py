"""The table of features: how two runs are judged, which results are kept, and how the page shows them."""

import json

import pytest

from benchmarks.hosts.features import command, hosts, page
from benchmarks.hosts.features.feature import FULL, KIND_OF, ROWS, Feature
from benchmarks.hosts.features.twins import (
    DIFFERS,
    FAILS,
    HOSTS_ERROR,
    NO_EFFECT,
    REFUSED,
    ROUNDED,
    SAME,
    allow_for_rounding,
    judge,
)
from benchmarks.hosts.features.worker import Run
from benchmarks.paths import RESULTS

FEATURE = Feature({"key": True})
EQUAL = "loss by 0.0e+00, gradient norm by 0.0e+00"
# The columns of the table, and the modules with their features.
FILES = {"axolotl": "axolotl", "llamafactory": "llamafactory", "trl": "trl", "trl-1.9": "trl", "swift": "swift"}
FILES |= {"transformers": "transformers"}


def run(*losses, error="", otr=True, **more):
    more |= {"otr/objective": 1.0} if otr else {}
    return Run([{"loss": x, "grad_norm": 1.0} | more for x in losses], error, "")


def plain(*losses, **more):
    return run(*losses, otr=False, **more)


@pytest.mark.parametrize(
    ("own", "ours", "result", "message"),
    [
        (plain(4.0, 3.0), run(4.0, 3.000001), SAME, None),
        (plain(4.0, 3.0), run(4.0, 3.00001), DIFFERS, "loss by 3.3e-06, gradient norm by 0.0e+00, nothing else"),
        (
            plain(4.0, 3.0),
            run(4.0, 3.0, grad_norm=1.0001),
            DIFFERS,
            "loss by 0.0e+00, gradient norm by 1.0e-04, nothing else",
        ),
        (plain(4.0, 3.0), run(4.0), DIFFERS, "2 steps, 1 with OTR"),
        (plain(4.0, 3.0), plain(4.0, 3.0), DIFFERS, "OTR's metrics are not in the log"),
        (plain(4.0, 3.0, accuracy=0.5), run(4.0, 3.0, accuracy=0.6), DIFFERS, f"{EQUAL}, accuracy 0.5 and 0.6"),
        (plain(4.0, 3.0, accuracy=0.5), run(4.0, 3.0), DIFFERS, "not in the log: accuracy"),
        (plain(4.0, 3.0, step_time=0.5), run(4.0, 3.0, step_time=0.6), SAME, None),
        (plain(4.0, float("nan")), run(4.0, 3.0), HOSTS_ERROR, "the host logs [[4.0, 1.0], [nan, 1.0]]"),
        (plain(4.0), run(4.0), HOSTS_ERROR, "the host logs [[4.0, 1.0]]"),
        (plain(4.0, 3.0), run(error="KeyError: 'x'"), FAILS, "KeyError: 'x'"),
        (plain(error="No GPU"), run(error="No GPU"), HOSTS_ERROR, "No GPU"),
        (plain(4.0, 3.0), run(error="ValueError: otr: another loss."), REFUSED, "ValueError: otr: another loss."),
        (plain(error="No GPU"), run(error="ValueError: otr: no."), REFUSED, "ValueError: otr: no."),
    ],
)
def test_two_runs_are_judged(own, ours, result, message):
    cell = judge(FEATURE, own, ours, None)
    assert (cell["result"], cell.get("message")) == (result, message)


def test_a_feature_that_changes_nothing_was_not_tested():
    reference = judge(FEATURE, plain(4.0, 3.0), run(4.0, 3.0), None)
    again = judge(FEATURE, plain(4.0, 3.0), run(4.0, 3.0), reference)
    assert again["result"] == NO_EFFECT
    silent = judge(Feature({"key": True}, silent=True), plain(4.0, 3.0), run(4.0, 3.0), reference)
    assert silent["result"] == SAME
    assert judge(FEATURE, plain(4.0, 3.0, more=1), run(4.0, 3.0, more=1), reference)["result"] == SAME


@pytest.mark.parametrize(("farthest", "result"), [(3.0, DIFFERS), (3.0002, DIFFERS), (3.0004, ROUNDED)])
def test_a_run_may_be_three_times_as_far_as_disturbed_runs_of_the_host(farthest, result):
    own = plain(4.0, 3.0)
    cell = judge(FEATURE, own, run(4.0, 3.001), None)
    allow_for_rounding(FEATURE, cell, own, [plain(4.0, 3.0001), plain(4.0, farthest)])
    assert cell["result"] == result


def test_a_refusal_is_told_without_what_pydantic_adds():
    error = (
        "ValidationError: 1 validation error for Config\n  Value error, `plugins: [otr]` trains with One-Token "
        "Rollout, but `use_eaft: True`: set it to false. [type=value_error, input_value={'a': 1}, input_type=dict]"
    )
    message = judge(FEATURE, plain(4.0, 3.0), run(error=error), None)["message"]
    assert message == "`plugins: [otr]` trains with One-Token Rollout, but `use_eaft: True`: set it to false."


@pytest.mark.parametrize("name", hosts.MODULES)
def test_a_hosts_features_are_rows_of_the_table(name):
    features = hosts.of(name).features
    assert features.keys() <= KIND_OF.keys()
    assert features[FULL].keys == {}
    for feature in features.values():
        assert feature.on in features


def test_every_row_has_a_host():
    assert len(KIND_OF) == sum(map(len, ROWS.values())), "two rows have one name"
    assert set().union(*(hosts.of(name).features for name in hosts.MODULES)) == KIND_OF.keys()


def test_the_results_are_those_of_the_tables():
    assert page.COLUMNS.keys() == FILES.keys()
    for file, name in FILES.items():
        host, cells = hosts.of(name), json.loads((RESULTS / f"features-{file}.json").read_text())["cells"]
        assert cells.keys() == host.features.keys(), f"{file}: make features"
        for feature, cell in cells.items():
            assert cell["keys"] == command.keys_of(host, feature), f"{file}, {feature}: make features"
            assert (cell["result"] in (DIFFERS, FAILS)) == ((file, feature) in page.KNOWN), f"{file}, {feature}"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("AssertionError: Torch not compiled with CUDA enabled", "needs a GPU"),
        ("ModuleNotFoundError: No module named 'deepspeed'", "not installed"),
        ("KeyError: 'dion_momentum'", "host's error"),
    ],
)
def test_the_hosts_own_errors_have_short_words(message, words):
    assert page.word({"result": HOSTS_ERROR, "message": message}) == words
