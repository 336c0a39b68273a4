"""Two processes, started by ms-swift's own torchrun, on gloo."""

import pytest

from benchmarks.hosts.driver import retry_if_a_rank_died
from benchmarks.hosts.swift import Swift
from tests.hosts.agreement import same_training

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
