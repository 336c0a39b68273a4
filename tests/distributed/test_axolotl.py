"""Two processes, started by Axolotl's own launcher, on gloo."""

import subprocess
import sys

import pytest

from benchmarks.hosts.axolotl import ENV, Axolotl
from benchmarks.hosts.driver import retry_if_a_rank_died
from otr_plugin.metrics import PREFIX, ROW_METRICS
from tests.hosts.agreement import same_training


@pytest.fixture(scope="module")
def axolotl(tmp_path_factory):
    return Axolotl(tmp_path_factory.mktemp("axolotl"))


ON_CPU = {"ACCELERATE_USE_CPU": "true"}
TWO = ("--launcher", "torchrun", "--", "--nproc_per_node=2")
RECIPE = {"data": "equal_lengths.jsonl", "max_steps": 4, "logging_steps": 2}


def two_ranks(axolotl, name, plugins, **changes):
    env = ON_CPU | {"OMP_NUM_THREADS": "1"}
    recipe = RECIPE | changes | {"plugins": ["benchmarks.hosts.axolotl_plugins.RanksOnCPU", *plugins]}
    return retry_if_a_rank_died(lambda: axolotl.train(name, *TWO, env=env, **recipe))


def test_sft_is_the_hosts_own_training(axolotl):
    plain, _ = two_ranks(axolotl, "plain", [])
    ours, printed = two_ranks(axolotl, "ours", ["otr"], otr={"objective": "sft"})
    assert "OTR is active: objective sft" in printed
    same_training(ours, plain, norms=2e-5)


def test_two_ranks_equal_one_with_twice_the_batch(axolotl):
    otr = {"estimator": "exact"}
    one, _ = axolotl.train("one", plugins=["otr"], otr=otr, micro_batch_size=4, **RECIPE)
    two, _ = two_ranks(axolotl, "two", ["otr"], otr=otr, micro_batch_size=2)
    steps = [(a, b) for a, b in zip(two, one, strict=True) if "loss" in a]
    assert len(steps) == 2
    for both, whole in steps:
        assert both["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        for name in ROW_METRICS:
            assert both[PREFIX + name] == pytest.approx(whole[PREFIX + name], rel=1e-3, abs=1e-5), name


def test_a_ray_worker_loads_the_plugin(axolotl, tmp_path):
    """Ray pickles the parsed recipe, and calls Axolotl's ray_train_func in a new process."""
    recipe = axolotl.recipe("rayed", plugins=["otr"], otr={"samples": 16}, use_ray=True, max_steps=1)
    read = (
        "from axolotl.cli.config import load_cfg; import pickle; from axolotl.cli.args import TrainerCliArgs as Args;"
    )
    read += f"pickle.dump({{'cfg': load_cfg({str(recipe)!r}).to_dict(), 'cli_args': Args()}}, open('sent', 'wb'))"
    work = (
        "from axolotl.cli.train import ray_train_func; import pickle; ray_train_func(pickle.load(open('sent', 'rb')))"
    )
    for code in (read, work):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert "OTR is active: objective otr (16 samples" in done.stdout + done.stderr
