"""Two processes, started by LLaMA-Factory's own torchrun, on gloo."""

import pytest

from benchmarks.hosts.driver import retry_if_a_rank_died
from benchmarks.hosts.llamafactory import LlamaFactory
from tests.hosts.agreement import same_training


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
