"""The search for recipes that are read otherwise: its recipes are what it takes them for, and its judge is strict."""

import json
import re
from itertools import pairwise

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.cases import Active, Either, Plain, Reading, Refusal, Refused, judge
from benchmarks.fuzz.document import Mapping, Scalar, Sequence, TextBlock, pairs_in
from benchmarks.fuzz.hosts import HOSTS
from benchmarks.fuzz.mutations import MUTATIONS
from benchmarks.fuzz.recipes import draft_of
from benchmarks.fuzz.strategy import cases
from benchmarks.paths import RESULTS
from otr_plugin import OTRConfig

quick = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def value_of(node):
    match node:
        case Scalar():
            return str(node.value)  # a setting may stand in quotes
        case TextBlock():
            return "\n".join(node.lines) + "\n"
        case Sequence():
            return [value_of(item) for item in node.items]
        case Mapping():
            return {pair.name: value_of(pair.value) for pair in node.pairs}


def as_text(value):
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    return [as_text(item) for item in value] if isinstance(value, list) else str(value)


@st.composite
def drafts(draw):
    host = draw(st.sampled_from(list(HOSTS.values())))
    draft = draft_of(draw, host, draw(st.booleans()))
    return draft, draft.finish()


@quick
@given(drafts())
def test_a_right_recipe_reads_as_its_tree_in_every_style(drawn):
    draft, case = drawn
    assert as_text(yaml.safe_load(case.text)) == value_of(draft.document)
    assert isinstance(case.outcome, Plain if draft.settings is None else Active)


@quick
@given(drafts())
def test_a_pair_stands_on_its_lines(drawn):
    draft, case = drawn
    lines = case.text.splitlines()
    for pair in pairs_in(draft.document):
        assert 1 <= pair.line <= pair.last_line
        spelling = pair.spelling or pair.name
        assert spelling.strip("'\"") in lines[pair.line - 1]
    pairs = draft.document.pairs
    if not draft.document.flow:
        assert all(pair.last_line < following.line for pair, following in pairwise(pairs))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("mutation", dict.fromkeys(m.name for m in MUTATIONS))
def test_a_mutation_states_its_outcome(host, mutation):
    kinds = [m for m in MUTATIONS if m.name == mutation and host in m.hosts]
    if not kinds:
        return  # the mutation is one of another host

    @settings(max_examples=5, phases=[Phase.generate], parent=quick)
    @given(cases(host, mutation))
    def drawn(case):
        assert case.mutations == (mutation,)
        assert isinstance(case.outcome, Refused) != kinds[0].harmless

    drawn()


DEFAULT, OTHER = Reading(config=OTRConfig()), Reading(config=OTRConfig(samples=3))
PLAIN = Reading(plain={})
NAMES_A_LINE = Reading(error="otr: recipe.yaml:12: `Otr:`: write `otr:`", error_type="ValueError")
WRONG_OTR = Refused((Refusal(("Otr",), (range(12, 14),)),))


@pytest.mark.parametrize(
    ("outcome", "reading", "problem"),
    [
        (Active(OTRConfig()), DEFAULT, None),
        (Active(OTRConfig()), OTHER, "trains with other settings"),
        (Active(OTRConfig()), PLAIN, "trains without OTR"),
        (Active(OTRConfig()), NAMES_A_LINE, "refused, but it is right"),
        (Plain(), PLAIN, None),
        (Plain(), DEFAULT, "trains with OTR"),
        (Plain(), NAMES_A_LINE, "refused, but it has nothing to do with OTR"),
        (WRONG_OTR, NAMES_A_LINE, None),
        (WRONG_OTR, DEFAULT, "not refused"),
        (WRONG_OTR, PLAIN, "not refused"),
        (WRONG_OTR, Reading(error="'Otr'", error_type="KeyError"), "the message is not OTR's"),
        (WRONG_OTR, Reading(error="otr: wrong"), "the message does not name 'Otr'"),
        (WRONG_OTR, Reading(error="otr: recipe.yaml:1: `Otr:`"), "the message does not name the line"),
        (WRONG_OTR, Reading(error="otr: recipe.yaml:120: `Otr:`"), "the message does not name the line"),
        (WRONG_OTR, Reading(error="otr: `Otr` in line 13"), None),
        (WRONG_OTR, Reading(error="otr: recipe.yaml:12: Otr" + "\n" * 12), "the message has more than 12 lines"),
        (WRONG_OTR, Reading(error='unknown key "Otr" in line 12'), None),
        (Refused((Refusal(("a",)), *WRONG_OTR.refusals)), NAMES_A_LINE, None),
        (Either(Active(OTRConfig()), WRONG_OTR), DEFAULT, None),
        (Either(Active(OTRConfig()), WRONG_OTR), NAMES_A_LINE, None),
        (Either(Active(OTRConfig()), WRONG_OTR), OTHER, "trains with other settings"),
    ],
)
def test_the_judge(outcome, reading, problem):
    assert judge(outcome, reading, re.compile("unknown key")) == problem


def test_a_refusal_may_be_named_by_one_of_several_words():
    refusal = Refusal((("O\u200btr", "U+200B"),))
    assert refusal.problem_in("otr: U+200B is not seen") is None
    assert "does not name" in refusal.problem_in("otr: Otr")


@pytest.mark.parametrize("host", HOSTS)
def test_the_kept_search_read_every_kind_of_recipe_and_found_nothing(host):
    kept = json.loads((RESULTS / "fuzz.json").read_text())[host]
    assert kept["examples"] >= 2000
    assert kept["failures"] == 0
    assert kept["by_mutation"].keys() >= {m.name for m in MUTATIONS if host in m.hosts}
