"""`otr add` and `otr remove` on generated recipes of every host, in every style that people write."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.cases import Refused
from benchmarks.fuzz.hosts import HOSTS as STYLES
from benchmarks.fuzz.recipes import draft_of
from benchmarks.fuzz.recipes import settings as otr_settings
from benchmarks.fuzz.strategy import cases
from otr_plugin import OTRConfig
from otr_plugin.command.conversion import add, remove
from otr_plugin.command.recipes import HOSTS, host_of
from otr_plugin.hosts.recipe_text import RecipeText
from tests.command.driver import otr

quick = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
# A loss that `otr add` switches off, for each host.
OTHER_LOSS = {
    "axolotl": "chunked_cross_entropy: true",
    "llamafactory": "use_dft_loss: true",
    "trl": "loss_type: dft",
    "swift": "enable_dft_loss: true",
}

# Axolotl finds out by importing it that there is no such module; the static level imports nothing.
NOT_THERE = "axolotl.integrations.otr"


@st.composite
def recipes(draw, host, with_otr):
    return draft_of(draw, STYLES[host], with_otr).finish()


def text_of(source, name="recipe.yaml"):
    return RecipeText(source, name)


@pytest.mark.parametrize("host", HOSTS)
def test_remove_restores_every_byte_and_add_twice_is_add_once(host):
    @quick
    @given(recipes(host, with_otr=False), otr_settings(), st.booleans())
    def check(case, chosen, with_other_loss):
        source = case.text
        text = text_of(source, case.file)
        if with_other_loss and text.root.flow_style is False and "..." not in source:
            source += ("" if source.endswith("\n") else "\n") + " " * text.root.start_mark.column + OTHER_LOSS[host]
            text = text_of(source, case.file)
        made = add(source, text, HOSTS[host], chosen)
        after = text_of(made.text, case.file)
        assert HOSTS[host].read(after) == OTRConfig(**chosen)
        assert remove(made.text, after, HOSTS[host]) == source
        assert add(made.text, after, HOSTS[host], chosen).text == made.text
        assert host_of(text, "recipe").name == host
        kept = [line for line in source.splitlines() if line in made.text]
        assert len(kept) >= len(source.splitlines()) - 2

    check()


@pytest.mark.parametrize("host", HOSTS)
def test_remove_takes_out_what_a_person_wrote(host):
    @quick
    @given(recipes(host, with_otr=True))
    def check(case):
        text = text_of(case.text, case.file)
        result = remove(case.text, text, HOSTS[host])
        assert HOSTS[host].read(text_of(result, case.file)) is None

    check()


@pytest.mark.parametrize("host", HOSTS)
def test_a_recipe_with_mistakes_is_converted_back_and_forth_or_refused(host, tmp_path):
    recipe = tmp_path / "recipe.yaml"

    @quick
    @given(cases(host))
    def check(case):
        recipe.write_bytes(case.text.encode())
        if otr("check", recipe, "--host", host).exit_code == 0 and isinstance(case.outcome, Refused):
            is_elsewhere = case.command or case.environment or case.sweep
            assert is_elsewhere or NOT_THERE in case.text, case
        added = otr("add", recipe, "--host", host)
        assert added.exit_code in (0, 1, 2)
        if added.exit_code == 0 and added.stdout != case.text:
            recipe.write_bytes(added.stdout.encode())
            assert otr("remove", recipe, "--host", host).stdout == case.text

    check()
