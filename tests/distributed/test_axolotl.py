"""Two processes, started by Axolotl's own launcher, on gloo.

On a CPU, accelerate would leave FSDP and DeepSpeed out, and Axolotl would make a mesh of GPUs. For those engines, a
plugin changes both (benchmarks/hosts/engines_on_cpu.py), and prints what was trained.
"""

import importlib.util
import json
import re
import subprocess
import sys
import zlib

import pytest

from benchmarks.hosts.axolotl import ENV, Axolotl
from benchmarks.hosts.driver import retry_if_a_rank_died
from benchmarks.hosts.engines_on_cpu import ZERO3
from otr_plugin.metrics import PREFIX, ROW_METRICS
from tests.hosts.agreement import (
    ANSWER,
    EXAMPLES,
    PROMPT,
    WHOLE,
    same_after_resume,
    same_as_the_specification,
    same_training,
)
from tests.hosts.agreement import RECIPE as ONE_EXAMPLE


@pytest.fixture(scope="module")
def axolotl(tmp_path_factory):
    return Axolotl(tmp_path_factory.mktemp("axolotl"))


PLUGINS = "benchmarks.hosts.axolotl_plugins"
ON_CPU = {"ACCELERATE_USE_CPU": "true"}
TWO = ("--launcher", "torchrun", "--", "--nproc_per_node=2")
RECIPE = {"data": "equal_lengths.jsonl", "max_steps": 4, "logging_steps": 2}


EXACT = {"plugins": ["otr"], "otr": {"estimator": "exact"}}
ENGINES = {
    "FSDP2": {
        "fsdp_version": 2,
        "fsdp_config": {
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
            "state_dict_type": "FULL_STATE_DICT",
            "reshard_after_forward": True,
            "offload_params": False,
            "cpu_ram_efficient_loading": False,
        },
    },
    "ZeRO-3": {},  # in a file
}


@pytest.fixture(scope="module")
def one(axolotl):
    """The log of one process that has the batches of both ranks."""
    log, _ = axolotl.train("one", micro_batch_size=4, **EXACT, **RECIPE)
    return log


def two_ranks(axolotl, name, plugins, adapter="RanksOnCPU", env=ON_CPU, **changes):
    recipe = RECIPE | changes | {"plugins": [f"{PLUGINS}.{adapter}", *plugins]}
    return retry_if_a_rank_died(lambda: axolotl.train(name, *TWO, env=env | {"OMP_NUM_THREADS": "1"}, **recipe))


def same_as_one(two, one):
    steps = [(a, b) for a, b in zip(two, one, strict=True) if "loss" in a]
    assert len(steps) == 2
    for both, whole in steps:
        assert both["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-3)
        for name in ROW_METRICS:
            assert both[PREFIX + name] == pytest.approx(whole[PREFIX + name], rel=1e-3, abs=1e-5), name


def test_sft_is_the_hosts_own_training(axolotl):
    plain, _ = two_ranks(axolotl, "plain", [])
    ours, printed = two_ranks(axolotl, "ours", ["otr"], otr={"objective": "sft"})
    assert "OTR is active: objective sft" in printed
    same_training(ours, plain, norms=2e-5)


def test_two_ranks_equal_one_with_twice_the_batch(axolotl, one):
    two, _ = two_ranks(axolotl, "two", **EXACT)
    same_as_one(two, one)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_trains_as_the_specification_says_and_resumes(axolotl, engine):
    settings = ONE_EXAMPLE | same_example(axolotl) | ENGINES[engine] | {"save_steps": 2}
    if engine == "ZeRO-3":
        if not importlib.util.find_spec("deepspeed"):
            pytest.skip("DeepSpeed is not in this environment; `make engines` runs this test")
        (axolotl.folder / "zero3.json").write_text(json.dumps(ZERO3))
        settings["deepspeed"] = str(axolotl.folder / "zero3.json")
    unbroken, printed = two_ranks(axolotl, engine, adapter="EnginesOnCPU", env={}, **settings)
    assert f"step 4 trained a model sharded by {engine}" in printed
    saved, model = axolotl.folder / engine, axolotl.folder / "model"
    same_as_the_specification(unbroken, model, width=64, pieces=(WHOLE, WHOLE), saved=saved)
    settings["resume_from_checkpoint"] = str(saved / "checkpoint-2")
    _, printed = two_ranks(axolotl, f"{engine}, resumed", adapter="EnginesOnCPU", env={}, **settings)
    assert "step 2 trained" not in printed
    assert f"step 4 trained a model sharded by {engine}" in printed
    folders = saved, axolotl.folder / f"{engine}, resumed"
    same_after_resume(*(folder / "checkpoint-4" for folder in folders), weights=folders)


def same_example(axolotl, answer=ANSWER):
    """Batches are then the same on every rank. Axolotl keeps prepared data by the file's name, whatever it holds."""
    name = f"same-{zlib.crc32(answer.encode())}.jsonl"
    (axolotl.folder / name).write_text((json.dumps({"prompt": PROMPT, "completion": answer}) + "\n") * EXAMPLES)
    return {"data": name, "logging_steps": 1}


def test_ranks_that_share_a_sequence(axolotl):
    """Axolotl cuts the labels before the model shifts them, so the first label of the second half is lost, as it is
    without OTR; and each rank averages over its own tokens."""
    answer = "".join(chr(ord("a") + i * i % 26) for i in range(55))
    cut = {"context_parallel_size": 2, "attn_implementation": "flash_attention_2"}
    recipe = ONE_EXAMPLE | same_example(axolotl, answer) | ENGINES["FSDP2"] | cut
    log, printed = two_ranks(axolotl, "cut", adapter="ContextParallelOnCPU", env={}, **recipe)
    assert "step 4 trained a model sharded by FSDP2" in printed
    pieces = (slice(0, 32), slice(32, 64))
    same_as_the_specification(log, axolotl.folder / "model", width=64, answer=answer, pieces=pieces, cut_first=True)


def test_ray_trains_as_the_specification_says(axolotl):
    if not importlib.util.find_spec("ray"):
        pytest.skip("Ray is not in this environment; `make engines` runs this test")
    workers = {"use_ray": True, "ray_num_workers": 2, "resources_per_worker": {"CPU": 1}}
    recipe = ONE_EXAMPLE | same_example(axolotl) | workers | {"plugins": [f"{PLUGINS}.RayOnCPU", "otr"]}
    env = ON_CPU | {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    log, printed = axolotl.train("rayed", env=env, **recipe)
    assert re.search(r"\(RayTrainWorker pid=\d+\).*OTR is active: objective otr \(16 samples", printed)
    saved = axolotl.folder / "rayed"
    same_as_the_specification(log, axolotl.folder / "model", width=64, pieces=(WHOLE, WHOLE), saved=saved)


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
