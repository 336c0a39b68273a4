"""Features of Trainer that no other test runs have the result that docs/features.md shows."""

import pytest

from tests.hosts.features import fixture_of

table = fixture_of("transformers")


@pytest.mark.parametrize(
    "name",
    [
        "LoRA on the head",
        "DoRA",
        "IA3",
        "NEFTune",
        "padding-free",
        "gradient checkpointing, reentrant",
        "evaluation with metrics",
        "experts with balancing loss, accumulated",
        "softcapped logits (Gemma 2)",
        "early stopping",
    ],
)
def test_a_feature_has_the_result_of_the_table(table, name):
    table.check(name)
