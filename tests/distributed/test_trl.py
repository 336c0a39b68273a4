"""Two processes that run the script of `trl sft`, on gloo."""

import functools
import json
import re

import pytest

from benchmarks.hosts.driver import BIN, retry_if_a_rank_died
from benchmarks.hosts.trl import SAVED, TRL
from benchmarks.paths import ROOT
from otr_plugin.hosts.run_record import RECORD_FILE
from tests.distributed import host_ranks
from tests.hosts.agreement import ANSWER, EXAMPLES, PROMPT, RECIPE, WHOLE, same_as_the_specification, same_training
from tests.hosts.trl.test_train import SFT, same_metrics


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    return TRL(tmp_path_factory.mktemp("trl"))


def test_sft_on_two_ranks_is_the_hosts_own_training(trl):
    two = (
        str(BIN / "torchrun"),
        "--nproc_per_node=2",
        str(ROOT / "tests" / "distributed" / "trl_ranks.py"),
        "--config",
    )
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


@pytest.mark.parametrize("engine", host_ranks.ENGINES)
def test_an_engine_trains_as_the_specification_says(trl, engine):
    rows = (json.dumps({"prompt": PROMPT, "completion": ANSWER}) + "\n") * EXAMPLES
    (trl.folder / "same.jsonl").write_text(rows)
    command, env = host_ranks.command("trl", engine)
    path = str(trl.recipe(engine, data="same", **SAVED | RECIPE | host_ranks.settings(engine, trl.folder)))
    printed = retry_if_a_rank_died(lambda: trl.call(*command, "--config", path, env=env)).stdout
    assert f"step 4 trains a model sharded by {host_ranks.SHARDED_BY[engine]}" in printed
    pieces = host_ranks.PIECES_OF_8 if engine == "context parallelism" else (WHOLE, WHOLE)
    same_as_the_specification(trl.log_of(engine), trl.folder / "model", pieces=pieces)
