"""Features of LLaMA-Factory that no other test runs have the result that docs/features.md shows."""

import pytest

from tests.hosts.features import fixture_of

table = fixture_of("llamafactory")


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
