"""Features of ms-swift that no other test runs have the result that docs/features.md shows."""

import pytest

from tests.hosts.features import fixture_of

table = fixture_of("swift")


@pytest.mark.parametrize(
    "name",
    [
        "DoRA",
        "NEFTune",
        "gradient checkpointing, reentrant",
        "LISA",
        "chat template, several turns",
        "experts with balancing loss, accumulated",
        "softcapped logits (Gemma 2)",
        "best model loaded at the end",
        "label smoothing",
    ],
)
def test_a_feature_has_the_result_of_the_table(table, name):
    table.check(name)
