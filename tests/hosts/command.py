"""`otr`, for the host that is installed where the test runs."""

import json
import re

import pytest

from benchmarks.paths import EXAMPLES, ROOT
from tests.command.driver import otr


def assert_the_host_accepts_its_examples_and_refuses(host, line, words, monkeypatch, tmp_path):
    """`line` is a key that only the host's own parser knows to be wrong; `words` are in its message."""
    monkeypatch.chdir(ROOT)  # the examples name their model and data from there
    examples = sorted((EXAMPLES / host).glob("quickstart-*.yaml"))
    reports = otr("check", *examples, "--level", "host", "--json").json["recipes"]
    assert [(report["exit_code"], report["problems"]) for report in reports] == [(0, [])] * 3
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((EXAMPLES / host / "quickstart-otr.yaml").read_text() + line + "\n")
    assert otr("check", recipe).exit_code == 0
    done = otr("check", recipe, "--level", "host")
    assert done.exit_code == 1
    assert "refuses the recipe: " in done.stdout
    assert words in done.stdout


def assert_the_host_counts_rows(host, ends_with, longest, new_token, monkeypatch, tmp_path):
    """On the quickstart's data, of whose characters each is a token.

    `ends_with` tokens follow an answer; `longest` is the key of the greatest length; `new_token` is a line that adds
    the token "zy", or None.
    """
    monkeypatch.chdir(ROOT)
    lines = (EXAMPLES / "small" / "desc-wrong10.jsonl").read_text().splitlines()
    answers = [json.loads(line)["completion"] for line in lines[:256]]
    own = (EXAMPLES / host / "quickstart-otr.yaml").read_text()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(own)
    (report,) = otr("check", recipe, "--level", "data", "--json").json["recipes"]
    data = report["data"]
    assert (report["exit_code"], report["warnings"]) == (0, [])
    assert (data["rows"], data["rows_without_trained_token"], data["new_labels"]) == (256, 0, 0)
    if host != "swift":  # which draws rows at random
        assert data["trained_tokens"] == sum(len(answer) + ends_with for answer in answers)
    recipe.write_text(
        "".join(line for line in own.splitlines(True) if not line.startswith(longest)) + f"{longest}: 4\n"
    )
    done = otr("check", recipe, "--level", "data")
    if host == "llamafactory":  # which keeps a token of every answer, however short the rows have to be
        assert re.search(r"rows of the greatest length, 4 +256\b", done.stdout)
        assert re.search(r"trained tokens +256 \(25%\)", done.stdout)
    else:
        assert done.exit_code == 1, done.stdout
        assert "the host dropped every row" in done.stdout or "no token of 256 rows is trained" in done.stdout
    if new_token is None:
        return
    recipe.write_text(own + new_token + "\n")
    (report,) = otr("check", recipe, "--level", "data", "--json").json["recipes"]
    data = report["data"]
    assert data["new_labels"] == data["new_tokens"][0]["count"] > 0
    if host != "swift":
        assert data["new_labels"] == sum("zy" in answer for answer in answers)
    (warning,) = report["warnings"]
    assert "new to the model: zy" in warning["what"]
    assert "set nll_weight: 0.1" in warning["advice"]


def compared(*folders, exit_code=0):
    """What `otr compare` finds in the output folders of runs that began alike."""
    done = otr("compare", *folders, "--json")
    verdicts = {check["name"]: check["verdict"] for check in done.json["checks"]}
    assert set(verdicts.values()) <= {"same", "not recorded"}
    assert verdicts["NLL of step 1"] == verdicts["seed"] == verdicts["tokens"] == "same"
    assert done.exit_code == done.json["exit_code"] == exit_code
    return done.json


def assert_doctor_finds(host):
    done = otr("doctor", "--json")
    (found,) = [each for each in done.json["hosts"] if each["name"] == host]
    assert found["installed"] in found["tried"]
    assert (done.exit_code, done.json["problems"]) == (0, [])


needs_this_host = pytest.mark.filterwarnings("default")  # a host's own warnings are no matter of this package
