"""Runs of a host with an objective of its own beside runs with ours: the same losses and gradient norms, or a factor.

Gradients are not clipped, so that Adam, which divides a gradient by its size, takes the same steps where the two
objectives differ by a factor.
"""

from __future__ import annotations

import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.hosts.driver import HostDriver

Log = list[dict[str, float]]
LN_20 = math.log(20)
ALPHA = 0.7


class Twins(NamedTuple):
    """One objective, in the host's keys and in ours."""

    own: dict[str, Any]
    ours: dict[str, Any]
    factor: float = 1.0  # the host's loss as a multiple of ours: what the formulas give


SHARED = {"max_grad_norm": 1000.0, "max_steps": 5}
TRAINER = {"per_device_eval_batch_size": 4, "eval_strategy": "steps", "eval_steps": 5}
RECIPES: dict[str, dict[str, Any]] = {
    "llamafactory": SHARED | TRAINER | {"val_size": 0.2, "gradient_accumulation_steps": 2},
    "trl": SHARED | TRAINER | {"test_split_size": 0.2, "gradient_accumulation_steps": 2},
    "axolotl": SHARED | {"val_set_size": 0.2, "eval_steps": 5},
    "swift": SHARED | TRAINER | {"split_dataset_ratio": 0.2, "gradient_accumulation_steps": 2},
}
TWINS = {
    "llamafactory": {
        "dft": Twins({"use_dft_loss": True}, {"objective": "dft"}),
        "eaft": Twins(
            {"use_eaft_loss": True, "eaft_alpha": ALPHA}, {"objective": "eaft", "alpha": ALPHA}, (LN_20 / 3) ** ALPHA
        ),
    },
    "trl": {"dft": Twins({"loss_type": "dft"}, {"objective": "dft"})},
    "axolotl": {
        "eaft": Twins({"use_eaft": True, "eaft_alpha": ALPHA}, {"objective": "eaft", "alpha": ALPHA}, LN_20**ALPHA)
    },
    "swift": {"dft": Twins({"enable_dft_loss": True}, {"objective": "dft"})},
}


def recipes(host: str) -> dict[str, dict[str, Any]]:
    """The recipes of a host's twins, by "NAME, its own" and "NAME, ours"."""
    found: dict[str, dict[str, Any]] = {}
    for name, twins in TWINS[host].items():
        variables = {f"OTR_{key.upper()}": value for key, value in twins.ours.items()}
        with_otr = (
            {"loss_type": "otr", "env": variables} if host == "swift" else {"plugins": ["otr"], "otr": twins.ours}
        )
        found |= {f"{name}, its own": RECIPES[host] | twins.own, f"{name}, ours": RECIPES[host] | with_otr}
    return found


# What a host's command does, for several recipes in one process: imports take longer than training here.
SCRIPTS = {
    "llamafactory": """
import sys
from llamafactory.extras.misc import use_modelscope
from llamafactory.hparams import read_args
from llamafactory.train.tuner import run_exp
for recipe in sys.argv[1:]:
    sys.argv[1:] = [recipe]
    run_exp()
""",
    "axolotl": """
import sys
from axolotl.cli.train import do_cli
for recipe in sys.argv[1:]:
    do_cli(recipe)
""",
}


def logs(host: str, driver: Any) -> dict[str, Log]:
    """Trains the twins of a host; returns the log histories by the names of `recipes`."""
    found = recipes(host)
    if host == "swift":
        results = driver.several(found)
        errors = [result["error"] for result in results.values() if result["error"]]
        assert not errors, errors
        return {name: result["log"] for name, result in results.items()}
    if host == "trl":
        for name, recipe in found.items():  # each in a process of its own: the script splits data before it seeds
            driver.train_each({name: recipe}, preamble="import transformers; transformers.set_seed(0)\n")
        return {name: driver.log_of(name) for name in found}
    return _in_one_process(host, driver, found)


def _in_one_process(host: str, driver: HostDriver, found: dict[str, dict[str, Any]]) -> dict[str, Log]:
    saved = {"save_strategy": "steps", "save_steps": 1000}  # `log_of` reads the checkpoint that is saved at the end
    paths = [str(driver.recipe(name, **recipe | saved)) for name, recipe in found.items()]
    HostDriver.call(driver, sys.executable, "-c", SCRIPTS[host], *paths)
    return {name: driver.log_of(name) for name in found}


def ratios(host: str, runs: dict[str, Log]) -> dict[str, dict[str, Any]]:
    """For each objective, the host's losses and gradient norms as multiples of ours, step by step."""
    found: dict[str, dict[str, Any]] = {}
    for name, twins in TWINS[host].items():
        own, ours = (runs[f"{name}, {whose}"] for whose in ("its own", "ours"))
        pairs = [(a, b) for a, b in zip(_steps(own), _steps(ours), strict=True)]
        evaluations = [[entry["eval_loss"] for entry in log if "eval_loss" in entry] for log in (own, ours)]
        found[name] = {
            "own": twins.own,
            "ours": twins.ours,
            "factor": twins.factor,
            "losses": [a["loss"] / b["otr/objective"] for a, b in pairs],
            "norms": [a["grad_norm"] / b["grad_norm"] for a, b in pairs],
            "eval_loss": {"own": evaluations[0][-1], "ours": evaluations[1][-1]},
        }
    return found


def _steps(log: Log) -> Log:
    return [entry for entry in log if "loss" in entry]


def driver_of(host: str, folder: Path) -> HostDriver:
    names = {"llamafactory": "LlamaFactory", "trl": "TRL", "axolotl": "Axolotl", "swift": "Swift"}
    driver: HostDriver = getattr(import_module(f"benchmarks.hosts.{host}"), names[host])(folder)
    return driver
