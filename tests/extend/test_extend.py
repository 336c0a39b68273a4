"""docs/extend.md: each worked example is applied to a copy of the package, as it is written, and its check is run."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks.paths import ROOT

PAGE = (ROOT / "docs" / "extend.md").read_text()
EXAMPLES = dict(re.findall(r"^## (An? [^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def apply(diff, folder):
    """Replace the lines that begin with ` ` or `-` by those that begin with ` ` or `+`; `@@` separates places."""
    name, _, body = diff.removeprefix("--- ").partition("\n")
    path = folder / name
    text = path.read_text()
    for place in body.split("@@\n"):
        lines = [line for line in place.splitlines() if line]
        assert all(line[0] in " +-" for line in lines), place
        old, new = ("\n".join(line[1:] for line in lines if line[0] in signs) + "\n" for signs in (" -", " +"))
        assert text.count(old) == 1, f"{name} has {text.count(old)} places like this:\n{old}"
        text = text.replace(old, new)
    path.write_text(text)


def write(block, folder):
    first, _, text = block.partition("\n")
    path = folder / first.removeprefix("# file: ")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def check(text, folder):
    script = folder / "check.py"
    script.write_text(next(block for block in blocks(text, "python") if block.startswith("# check")))
    env = {**os.environ, "PYTHONPATH": str(folder), "OTR_PLUGIN_AUTOLOAD": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, script.name], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "otr_plugin", tmp_path / "otr_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_every_kind_of_extension_has_an_example():
    assert list(EXAMPLES) == ["A host", "An objective", "A metric", "A model family"]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_example_works(kind, copy):
    text = EXAMPLES[kind]
    for diff in blocks(text, "diff"):
        apply(diff, copy)
    for block in blocks(text, "python"):
        if block.startswith("# file: "):
            write(block, copy)
    done = check(text, copy)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", EXAMPLES)
def test_without_its_changes_the_examples_check_fails(kind, copy):
    """So the check tells whether the changes work."""
    for block in blocks(EXAMPLES[kind], "python"):
        if block.startswith("# file: minitrain/"):
            write(block, copy)
    assert check(EXAMPLES[kind], copy).returncode != 0


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_file_that_an_example_names_exists(kind):
    for name in re.findall(r"`((?:otr_plugin|tests|benchmarks|docs)/[^`<>]*)`", EXAMPLES[kind]):
        assert (ROOT / name).exists(), name
