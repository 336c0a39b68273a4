"""Starts two ranks on this machine with torchrun, on CPUs."""

from benchmarks.hosts.driver import BIN, CPU_ENVIRONMENT, retry_if_a_rank_died, run_command
from benchmarks.paths import ROOT

TWO_RANKS = (str(BIN / "torchrun"), "--standalone", "--nproc_per_node=2")
ENV = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run_on_two_ranks(module, folder):
    """Run `python -m MODULE FOLDER` on both ranks, to its end."""
    command, env = (*TWO_RANKS, "-m", module, str(folder)), CPU_ENVIRONMENT | ENV
    retry_if_a_rank_died(lambda: run_command(*command, folder=ROOT, env=env, check=True))
