"""Two processes, started by LLaMA-Factory's own torchrun, on gloo."""

import json

import pytest

from benchmarks.hosts.driver import retry_if_a_rank_died
from benchmarks.hosts.llamafactory import LlamaFactory
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


@pytest.fixture(scope="module")
def factory(tmp_path_factory):
    return LlamaFactory(tmp_path_factory.mktemp("llamafactory"))


def test_sft_on_two_ranks_is_the_hosts_own_training(factory):
    two = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    sft = {"plugins": ["otr"], "otr": {"objective": "sft"}}
    plain, _ = retry_if_a_rank_died(lambda: factory.train("plain", env=two))
    ours, printed = retry_if_a_rank_died(lambda: factory.train("ours", env=two, **sft))
    assert "OTR is active: objective sft" in printed
    same_training(ours, plain, norms=5e-5)


@pytest.mark.parametrize("engine", ["FSDP2", "ZeRO-3"])
def test_an_engine_trains_as_the_specification_says_and_resumes(factory, engine):
    rows = [{"instruction": PROMPT, "input": "", "output": ANSWER}] * EXAMPLES
    (factory.folder / "same.json").write_text(json.dumps(rows))
    command, env = host_ranks.command("llamafactory", engine)
    recipe = RECIPE | {"dataset": "same", "save_strategy": "steps", "save_steps": 2}
    recipe |= host_ranks.settings(engine, factory.folder)

    def train(name, **changes):
        path = str(factory.recipe(name, **recipe | changes))
        printed = retry_if_a_rank_died(lambda: factory.call(*command, path, env=env)).stdout
        assert f"step 4 trains a model sharded by {engine}" in printed
        return printed

    train(engine)
    saved = factory.folder / engine
    log = json.loads((saved / "trainer_state.json").read_text())["log_history"]
    same_as_the_specification(log, factory.folder / "model", eos=False, width=8, pieces=(WHOLE, WHOLE), saved=saved)
    printed = train(f"{engine}, resumed", resume_from_checkpoint=str(saved / "checkpoint-2"))
    assert "step 2 trains" not in printed
    same_after_resume(saved, factory.folder / f"{engine}, resumed")
