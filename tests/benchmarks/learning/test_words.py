"""What the study's page says: tables and verdicts, of figures made up so that the words can be told by hand."""

import dataclasses

import pytest

from benchmarks.learning import plan, store, tables, verdicts
from benchmarks.learning.plan import LADDER, SIZES, Results
from benchmarks.learning.study import Study

SMOKE = SIZES["smoke"]


def study_of(values, tokens=None):
    """A finished smoke study in which the methods' seeds have these accuracies, the last after so many tokens."""
    lines = [
        {"kind": "session", "size": "smoke", "session": 0},
        {"kind": "base", "size": "smoke", "session": 0, "print": "x", "config": {}, "figures": {}},
    ]

    def add(run, figures):
        lines.append(store.line_of(run, "x", 0, figures))

    for method, accuracies in values.items():
        for rate, score in zip(SMOKE.grid, (0.5, 0.2), strict=True):
            for run in plan.searches(SMOKE, method, "compose", rate):
                add(run, {"validation": score, "old": 0.5, "update": 0.1})
        for run in plan.searches(SMOKE, method, "compose", LADDER[2]):
            add(run, {"validation": 0.1, "old": 0.5, "update": 0.1})
        for i, (run, value) in enumerate(
            zip(plan.finals(SMOKE, method, "compose", SMOKE.grid[0]), accuracies, strict=True)
        ):
            at = tokens[method][i] if tokens else 100
            more = {"pass": {"1": value, "4": value}, "far pass": {"1": 0.0, "4": 0.0}}
            course = {"course": [[1, at // 2, 0.1, 0.79], [2, at, 0.2, value], [3, 2 * at, 0.3, value]]}
            add(run, {"near": value, "far": 0.25, "old": 1 - value} | more | course)
    return Study.of(lines, SMOKE)


def test_verdicts_turn_with_the_figures():
    high, low, between = (0.9, 0.91), (0.5, 0.511), (0.3, 0.95)
    for_otr = verdicts.all_of(study_of({"OTR": high, "SFT": low}))["Does OTR beat SFT?"]
    for_sft = verdicts.all_of(study_of({"OTR": low, "SFT": high}))["Does OTR beat SFT?"]
    for_none = verdicts.all_of(study_of({"OTR": between, "SFT": low}))["Does OTR beat SFT?"]
    assert for_otr[0].startswith("In distribution: OTR is ahead in compose (+40.0 ± ")
    none = "OTR and SFT: no difference was found in compose (+0.0 ± 0.0)."
    assert for_otr[1] == f"Out of distribution: {none} At one rate, SFT's: the same."
    assert for_otr[2].startswith("Old skills: OTR is behind in compose (-40.0 ± ")
    assert for_sft[0].startswith("In distribution: OTR is behind in compose (-40.0 ± ")
    assert for_none[0].startswith("In distribution: OTR and SFT: no difference was found in compose (+11.9 ± ")


def test_how_soon_it_is_learnt():
    def said(otr, sft, tokens=None):
        study = study_of({"OTR": otr, "SFT": sft}, tokens)
        return verdicts.all_of(study).get("Does it learn as fast?")

    there = (0.9, 0.9)
    # The logs of 2 and of 4: on average that of 2.83, and half of their interval is 12.706 * 0.347.
    unsure, slower = {"OTR": (200, 400), "SFT": (100, 100)}, {"OTR": (2000, 2010), "SFT": (1000, 1000)}
    start = "Trained tokens to 80% of the validation questions, OTR's as a multiple of SFT's: "
    end = " At one rate, SFT's: the same."
    assert said(there, there, unsure) == [f"{start}no difference was found in compose (2.83, 0.03 to 231.22).{end}"]
    assert said(there, there, slower) == [f"{start}more in compose (2.00, 1.94 to 2.07).{end}"]
    faster = {"OTR": slower["SFT"], "SFT": slower["OTR"]}
    assert said(there, there, faster) == [f"{start}fewer in compose (0.50, 0.48 to 0.51).{end}"]
    assert said(there, (0.9, 0.79)) is None  # one seed never got there


def test_runs_that_were_left_behind():
    def said(otr):
        study = study_of({"OTR": otr, "SFT": (0.5, 0.6)})
        return verdicts.all_of(study)["Does every run get there?"]

    start = "Seeds that ended 20 points or more below the median of their method, in distribution: "
    assert said((0.9, 0.45)) == [f"{start}OTR in compose (45% where the median is 68%)."]
    assert said((0.9, 0.55)) == [f"{start}none."]


AHEAD = "OTR is ahead of SFT by 40.0 ± 0.6 points on average; ahead in a (+40.0 ± 0.9), b (+40.0 ± 0.9)."
BEHIND = "OTR is behind SFT by 20.0 ± 0.6 points on average; behind in a (-30.0 ± 0.9), b (-10.0 ± 0.9)."
NONE = "no difference was found between OTR and SFT on average (+0.0 ± 0.6 points)"
SINGLE = "OTR is ahead in a (+30.0 ± 0.9), behind in b (-30.0 ± 0.9)."
TOGETHER = "OTR is ahead of SFT by 0.9 ± 0.6 points on average, but in no regime by itself."


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((40.0, 40.0), AHEAD),
        ((-30.0, -10.0), BEHIND),
        ((30.0, -30.0), f"{NONE}; {SINGLE}"),
        ((0.0, 0.0), f"{NONE} or in any regime."),
        ((0.9, 0.9), TOGETHER),
    ],
)
def test_what_is_said_of_an_average(monkeypatch, differences, verdict):
    """Two regimes of five seeds; the noise of each is of the same kind."""
    size = dataclasses.replace(SMOKE, regimes=("a", "b"))
    noise = {"a": (-1, -0.4, 0.1, 0.5, 0.8), "b": (0.8, -1, -0.4, 0.1, 0.5)}

    def values(study, method, regime, name):
        of_otr = differences["ab".index(regime)]
        return [0.5 + (of_otr + n) / 100 if method == "OTR" else 0.5 for n in noise[regime]]

    monkeypatch.setattr(Study, "values", values)
    monkeypatch.setattr(Study, "finals", lambda study, method, regime: [{}] if method in ("OTR", "SFT") else [])
    study = Study(size, {}, Results(), [])
    assert verdicts.compared(study, "OTR", "SFT", "near") == verdict


def test_what_is_said_where_there_is_no_average(monkeypatch):
    """One regime, and the one that is in no average: as it is while a study is under way."""
    values = {"OTR": {"a": 0.5, "format": 0.9}, "SFT": {"a": 0.5, "format": 0.5}}
    monkeypatch.setattr(Study, "values", lambda study, method, regime, name: [values[method][regime]] * 5)
    monkeypatch.setattr(Study, "finals", lambda study, method, regime: [{}])
    study = Study(dataclasses.replace(SMOKE, regimes=("a", "format")), {}, Results(), [])

    def said():
        return verdicts.compared(study, "OTR", "SFT", "near")

    assert said() == "OTR is ahead in format (+40.0 ± 0.0); no difference was found in a (+0.0 ± 0.0)."
    values["OTR"]["a"] = 0.4
    assert said() == "OTR is ahead in format (+40.0 ± 0.0), behind in a (-10.0 ± 0.0)."
    values["OTR"] = values["SFT"]
    assert said() == "OTR and SFT: no difference was found in a (+0.0 ± 0.0), format (+0.0 ± 0.0)."


def test_nothing_is_quoted_from_some_of_the_seeds():
    study = study_of({"OTR": (0.9, 0.91), "SFT": (0.5,) * 2})
    assert tables.accuracies(study)[1] == ["compose, in distribution", "50.0 ± 0.0", "90.5 ± 6.4"]
    final = plan.finals(SMOKE, "OTR", "compose", SMOKE.grid[0])[1]
    del study.known.figures[final.key]
    assert tables.accuracies(study)[1] == ["compose, in distribution", "50.0 ± 0.0", ""]
    assert "Does OTR beat SFT?" not in verdicts.all_of(study)
