"""Features of LLaMA-Factory that no other test runs have the result that docs/features.md shows."""

import pytest

from tests.hosts.features import Table


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    table = Table("llamafactory", tmp_path_factory.mktemp("features"))
    yield table
    table.twins.close()


@pytest.mark.parametrize(
    "name",
    [
        "DoRA",
        "NEFTune",
        "gradient checkpointing, LoRA",
        "AdEMAMix",
        "chat template, only the last turn",
        "experts with balancing loss, accumulated",
        "scaled logits (Granite)",
        "DFT",
    ],
)
def test_a_feature_has_the_result_of_the_table(table, name):
    table.check(name)
