"""Features of TRL that no other test runs have the result that docs/features.md shows."""

import pytest

from tests.hosts.features import fixture_of

table = fixture_of("trl")


@pytest.mark.parametrize(
    "name",
    [
        "LoRA, head and embedding trained whole",
        "NEFTune",
        "gradient checkpointing, reentrant",
        "Adafactor",
        "packing, wrapped",
        "system prompt",
        "scaled logits (Cohere)",
        "best model loaded at the end",
        "DFT",
    ],
)
def test_a_feature_has_the_result_of_the_table(table, name):
    table.check(name)
