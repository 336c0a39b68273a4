import pytest

from benchmarks.hosts.driver import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model and its tokenizer. Runs write beside it."""
    folder = tmp_path_factory.mktemp("trainer") / "model"
    make_model(folder)
    return folder
