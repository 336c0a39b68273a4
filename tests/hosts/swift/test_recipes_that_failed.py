"""What once trained otherwise than it read."""

import pytest

from tests.hosts.recipes_that_failed import check, of


@pytest.mark.parametrize("recipe", of("swift"), ids=str)
def test_a_recipe_that_failed(reader, recipe):
    check(reader, recipe)
