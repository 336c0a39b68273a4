"""Two ranks of which one goes wrong: both end, or both get what they are owed, and an error names the cause."""

import importlib.util
import json
import subprocess
import sys

import pytest

from benchmarks.paths import ROOT

from .faults import SCENARIOS

CLOSED = "by peer"  # gloo: the connection was closed or reset by it, as without OTR
# For each scenario the words in the errors of the two ranks; None: the rank ends without an error.
ENDS = {
    "metrics_on_one_rank": ("rank 1 did not call it within 5 seconds. Call it on every rank", None),
    "metrics_at_different_steps": ("at different steps when they called it: [0, 1], by rank",) * 2,
    "metrics_between_collectives": (None, None),
    "ranks_draw_differently": (None, None),
    "a_rank_dies_before_the_metrics": ("rank 1 did not call it within 5 seconds", "exit status 9"),
    # With each engine:
    "a_rank_dies": (CLOSED, "exit status 9"),
    "first_step_check_fails_on_one_rank": (CLOSED, "differ from the model's own by 50.0% of the largest logit"),
    "nan_on_one_rank": (CLOSED, "LlamaForCausalLM's own logits are not finite"),
    # Without an engine:
    "token_weights_in_low_precision": (None, None),
    "tensor_parallel_layer": (None, None),
    "tensor_parallel_head": ("as (Shard(dim=0),), and passes it a DTensor",) * 2,
    "tensor_parallel_by_deepspeed": ("gate_proj.weight of LlamaForCausalLM is split by the tensor parallelism of Deep",)
    * 2,
}


@pytest.fixture(scope="module")
def ends():
    command = [sys.executable, "-m", "tests.distributed.faults"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_rank_ends_as_it_should(ends, scenario):
    if scenario.endswith("ZeRO-3") and not importlib.util.find_spec("deepspeed"):
        pytest.skip("DeepSpeed is not in this environment; `make engines` runs this test")
    for end, words in zip(ends[scenario], ENDS[scenario.split(", ")[0]], strict=True):
        if words is None:
            assert end is None
        else:
            assert words in end
