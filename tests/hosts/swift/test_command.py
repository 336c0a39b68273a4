"""`otr` where ms-swift is installed."""

from tests.hosts.command import (
    assert_doctor_finds,
    assert_the_host_accepts_its_examples_and_refuses,
    assert_the_host_counts_rows,
    needs_this_host,
)


@needs_this_host
def test_the_hosts_own_parser_reads_the_recipe(monkeypatch, tmp_path):
    assert_the_host_accepts_its_examples_and_refuses("swift", "no_such_key: 1", "no_such_key", monkeypatch, tmp_path)


@needs_this_host
def test_the_host_prepares_some_rows(monkeypatch, tmp_path):
    assert_the_host_counts_rows("swift", 1, "max_length", "new_special_tokens: [zy]", monkeypatch, tmp_path)


def test_doctor_finds_the_host():
    assert_doctor_finds("swift")
