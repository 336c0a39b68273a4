"""Recipes at random, with what people do to them: each is read as a person reads it, or refused."""

from tests.hosts.fuzzing import search


def test_recipes_are_read_as_a_person_reads_them(checker):
    search(checker, examples=150)
