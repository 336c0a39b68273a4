"""A part of the table of engines, by its own command; `make engines` runs all of it."""

import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks.engines import judge
from benchmarks.engines.cells import ENGINES, Cell, cells
from benchmarks.paths import RESULTS, ROOT

# One of each: the roots of what went wrong once, and the cases that combine the others.
CHOSEN = (
    "DDP | trained | everything",
    "FSDP1, head by itself, `use_orig_params=False` | trained | attached after wrapping",
    "FSDP1 | LoRA | a rank without tokens",
    "FSDP2 | LoRA | everything",
    "FSDP2, head with the norm | trained | softcap",
    "FSDP2, all groups resharded | tied | everything",
    "FSDP2, head by itself | modules_to_save | accumulation",
    "FSDP2, bf16 | trained | uneven tokens",
    "ZeRO-3 | trained | uneven tokens",
    "ZeRO-3, `zero.Init` | LoRA | a rank without tokens",
)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("engines")
    command = [sys.executable, "-m", "benchmarks", "engines", "--out", str(out)]
    only = [part for name in CHOSEN for part in ("--only", name.replace("[", "[[]"))]
    done = subprocess.run(command + only, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads((out / "engines.json").read_text())["cells"]


@pytest.mark.parametrize("name", CHOSEN)
def test_two_ranks_train_as_one_process(results, name):
    if ENGINES[name.split(" | ")[0]].kind == "zero" and not importlib.util.find_spec("deepspeed"):
        pytest.skip("DeepSpeed is not in this environment; `make engines` runs this test")
    assert results[name]["result"] == judge.SAME


FAR, NEAR, OWN = {"update": 4e-2, "loss": 2e-3}, {"update": 2e-5, "loss": 2e-6}, {"update": 7e-6, "loss": 1.1e-6}


@pytest.mark.parametrize(
    ("errors", "own", "result"),
    [
        (FAR, OWN, judge.DIFFERS),  # an engine whose own loss is a little out of bounds excuses no large error
        (NEAR, OWN, judge.SAME),
        (FAR, FAR, judge.ENGINES_OWN),
        (FAR | {"update": 1.0}, FAR, judge.DIFFERS),
    ],
)
def test_the_judge_allows_otr_what_the_engine_by_itself_does(errors, own, result):
    class Ranks:
        def run(self, cell):
            return [{"result": own if cell.plain else errors}] * 2

    assert judge.judge(Cell("DDP", "trained", "uneven tokens"), Ranks())["result"] == result


def test_the_result_file_has_every_cell_and_none_is_bad():
    kept = json.loads((RESULTS / "engines.json").read_text())["cells"]
    assert list(kept) == [cell.name for cell in cells()]
    assert {cell["result"] for cell in kept.values()} <= set(judge.GOOD)
