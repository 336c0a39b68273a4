"""Two processes that run the script of `trl sft`, on gloo."""

import functools
import importlib.metadata
import json
import re

import pytest
from packaging.version import Version

from benchmarks.hosts.driver import retry_if_a_rank_died
from benchmarks.hosts.trl import SAVED, TRL
from benchmarks.paths import ROOT
from otr_plugin.hosts.run_record import RECORD_FILE
from tests.distributed import host_ranks
from tests.distributed.torchrun import TWO_RANKS
from tests.hosts.agreement import (
    ANSWER,
    EXAMPLES,
    PROMPT,
    RECIPE,
    WHOLE,
    same_after_resume,
    same_as_the_specification,
    same_training,
)
from tests.hosts.trl.test_train import SFT, same_metrics

BEFORE_1_16 = Version(importlib.metadata.version("trl")) < Version("1.16")


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    return TRL(tmp_path_factory.mktemp("trl"))


def test_sft_on_two_ranks_is_the_hosts_own_training(trl):
    two = (*TWO_RANKS, str(ROOT / "tests" / "distributed" / "trl_ranks.py"), "--config")
    env = {"ACCELERATE_USE_CPU": "true", "OTR_PLUGIN_TRACE": "1"}
    logs = []
    for name, recipe in {"plain": {}, "ours": SFT}.items():
        path = str(trl.recipe(name, save_strategy="steps", save_steps=1000, **recipe))
        done = retry_if_a_rank_died(functools.partial(trl.call, *two, path, env=env))
        logs.append(trl.log_of(name))
    plain, ours = logs
    assert done.stdout.count("OTR is active: objective sft") == 1, "said once, by the first rank"
    record = trl.folder / "ours" / RECORD_FILE
    writers = re.findall(rf"otr trace, process (\d+): wrote {re.escape(str(record))}", done.stderr)
    assert len(writers) == 2, "at the start and at the end"
    assert len(set(writers)) == 1, "by the first rank"
    assert json.loads(record.read_text())["processes"] == 2
    assert not (trl.folder / "plain" / RECORD_FILE).exists()
    same_training(ours, plain, norms=5e-5)
    same_metrics(ours, plain)


def train(trl, engine, name, **changes):
    """Run the script on one example, which makes the batches of all ranks and steps the same."""
    rows = (json.dumps({"prompt": PROMPT, "completion": ANSWER}) + "\n") * EXAMPLES
    (trl.folder / "same.jsonl").write_text(rows)
    command, env = host_ranks.command("trl", engine)
    recipe = SAVED | RECIPE | host_ranks.settings(engine, trl.folder) | changes
    path = str(trl.recipe(name, data="same", **recipe))
    printed = retry_if_a_rank_died(lambda: trl.call(*command, "--config", path, env=env)).stdout
    assert f"step 4 trains a model sharded by {host_ranks.SHARDED_BY[engine]}" in printed
    return printed


@pytest.mark.parametrize("engine", ["FSDP2", "ZeRO-3"])
def test_an_engine_trains_as_the_specification_says_and_resumes(trl, engine):
    train(trl, engine, engine, save_steps=2)
    saved = trl.folder / engine
    same_as_the_specification(trl.log_of(engine), trl.folder / "model", pieces=(WHOLE, WHOLE), saved=saved)
    if BEFORE_1_16:
        return  # its script cannot resume
    checkpoint = saved / "checkpoint-2"
    printed = train(trl, engine, f"{engine}, resumed", save_steps=2, resume_from_checkpoint=str(checkpoint))
    assert "step 2 trains" not in printed
    folders = saved, trl.folder / f"{engine}, resumed"
    same_after_resume(*(folder / "checkpoint-4" for folder in folders), weights=folders)


@pytest.mark.parametrize("engine", host_ranks.PIECES)
def test_ranks_that_share_a_sequence_train_as_the_specification_says(trl, engine):
    if engine == "Ulysses" and BEFORE_1_16:
        pytest.skip("the batches of TRL before 1.16 have no position_ids, which DeepSpeed's Ulysses needs")
    train(trl, engine, engine)
    same_as_the_specification(trl.log_of(engine), trl.folder / "model", pieces=host_ranks.PIECES[engine])
