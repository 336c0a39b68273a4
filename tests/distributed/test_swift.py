"""Two processes, started by ms-swift's own torchrun, on gloo."""

import json

import pytest

from benchmarks.hosts.driver import retry_if_a_rank_died
from benchmarks.hosts.swift import Swift, log_of
from tests.distributed import host_ranks
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
from tests.hosts.swift.test_train import ADAM, OTR

SFT = {"loss_type": "otr", "env": {"OTR_OBJECTIVE": "sft"}}


@pytest.fixture(scope="module")
def swift(tmp_path_factory):
    return Swift(tmp_path_factory.mktemp("swift"))


def test_sft_on_two_ranks_is_the_hosts_own_training(swift):
    two = {"NPROC_PER_NODE": "2"}
    plain, _ = retry_if_a_rank_died(lambda: swift.train("plain", shell=two))
    ours, printed = retry_if_a_rank_died(lambda: swift.train("ours", shell=two, **SFT))
    assert "OTR is active: objective sft" in printed
    assert "world_size: 2" in printed
    same_training(ours, plain, norms=5e-5)


@pytest.mark.parametrize("engine", ["FSDP2", "ZeRO-3"])
def test_an_engine_trains_as_the_specification_says_and_resumes(swift, engine):
    rows = (json.dumps({"query": PROMPT, "response": ANSWER}) + "\n") * EXAMPLES
    (swift.folder / "same.jsonl").write_text(rows)
    command, env = host_ranks.command("swift", engine)
    same = {name: RECIPE[name] for name in ("max_steps", "learning_rate", "seed")} | ADAM
    same |= {"use_logits_to_keep": False, "dataset": str(swift.folder / "same.jsonl")}
    same |= {"save_strategy": "steps", "save_steps": 2} | host_ranks.settings(engine, swift.folder)

    def train(name, **changes):
        path = str(swift.recipe(name, **OTR | same | changes))
        printed = retry_if_a_rank_died(lambda: swift.call(*command, path, env=env)).stdout
        assert f"step 4 trains a model sharded by {engine}" in printed
        return printed

    train(engine)
    unbroken, resumed = swift.folder / engine, swift.folder / f"{engine}, resumed"
    saved = unbroken / "checkpoint-4"
    same_as_the_specification(log_of(unbroken), swift.folder / "model", pieces=(WHOLE, WHOLE), saved=saved)
    printed = train(resumed.name, resume_from_checkpoint=str(unbroken / "checkpoint-2"))
    assert "step 2 trains" not in printed
    same_after_resume(saved, resumed / "checkpoint-4")
