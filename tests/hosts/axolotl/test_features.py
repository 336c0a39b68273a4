"""Features of Axolotl that no other test runs have the result that docs/features.md shows."""

import pytest

from tests.hosts.features import fixture_of

table = fixture_of("axolotl")


@pytest.mark.parametrize(
    "name",
    [
        "LoRA on the head",
        "DoRA",
        "NEFTune",
        "gradient checkpointing, reentrant",
        "AdEMAMix",
        "chat template, roles to train",
        "experts with balancing loss, accumulated",
        "softcapped logits (Gemma 2)",
        "resumed, LoRA",
        "label smoothing",
    ],
)
def test_a_feature_has_the_result_of_the_table(table, name):
    table.check(name)
