"""LLaMA-Factory's own objectives and ours train the same, but for the factors that docs/objectives.md explains."""

from benchmarks.hosts import objectives
from tests.hosts.agreement import same_objectives


def test_the_hosts_own_objectives_are_ours(factory):
    same_objectives("llamafactory", objectives.logs("llamafactory", factory))
