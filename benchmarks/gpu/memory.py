"""The estimates of `otr memory` beside what PyTorch's allocator counts, for the recipes of the gallery on one GPU.

A recipe's step runs on the model that its config describes, on zeros. PyTorch's allocations are capped at the memory of
the card that the recipe is for, so the loss plans its chunks as on that card. The estimate is the one that
benchmarks/results/gallery.json keeps. At toy size the models have two thin layers of the same family, and the estimate
is compared with the same count on real tensors.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.gallery.command import RESULT
from benchmarks.gallery.recipes import HOSTS, card_of, config_of, model_of, recipes
from benchmarks.gpu.record import Context, Figures
from benchmarks.paths import EXAMPLES

TITLE = "otr memory beside the allocator"
MINUTES = 4.0
INTERPRETED = False
NEEDED = ("transformers", "peft", "accelerate", "bitsandbytes", "liger_kernel")
# Widths are multiples of 64, as bitsandbytes needs on a CPU.
TOY = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
       "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 2000}  # fmt: skip
TOY_MORE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
TOY_TOKENS = 128


def cells(small: bool) -> list[str]:
    found = [[path for path in recipes(host) if card_of(path)[0] == 1] for host in HOSTS]
    chosen = [paths[0] for paths in found] if small else [path for paths in found for path in paths]
    return [path.relative_to(EXAMPLES).as_posix() for path in chosen]


def measure(cell: str, context: Context) -> Figures:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        return {"failed": f"not installed: {', '.join(missing)}"}
    from otr_plugin.command.memory.model_config import config_of as read_config
    from otr_plugin.command.memory.plan import settled
    from otr_plugin.command.memory.reading import plan_of

    path = EXAMPLES / cell
    name = model_of(yaml.safe_load(path.read_text()))
    config = read_config(name, config_of(name))
    if context.small:
        _shrink(config)
    plan = settled(plan_of(path), config)
    if context.small:
        return toy(config, replace(plan, sequence=TOY_TOKENS, rows=1), context.device)
    _, gib = card_of(path)
    return {"gib": gib, "estimate": estimate_of(path), **on_card(config, plan, gib)}


def _shrink(config: Any) -> None:
    for name, value in (TOY | TOY_MORE).items():
        if hasattr(config, name) and (name in TOY or isinstance(getattr(config, name), int)):
            setattr(config, name, value)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: TOY["num_hidden_layers"]]


def toy(config: Any, plan: Any, device: str) -> Figures:
    """The estimate, the same count on real tensors, and that a real step runs, as it will on a card."""
    from otr_plugin.command.memory import step

    estimate = step.run(config, plan, None).peak.total
    counted = step.run(config, plan, None, on_real_tensors=True).peak.total
    return {"estimate": estimate, "counted": counted, **_real_step(config, plan, device)}


def on_card(config: Any, plan: Any, gib: float) -> Figures:
    """The peak of a real step under the cap."""
    total = torch.cuda.get_device_properties(0).total_memory
    if gib * 2**30 > total:
        return {"failed": f"the card has less than {gib} GiB"}
    torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)
    try:
        return _real_step(config, plan, "cuda")
    except torch.OutOfMemoryError:
        return {"failed": f"out of memory with {gib} GiB"}
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        gc.collect()
        torch.cuda.empty_cache()


def _real_step(config: Any, plan: Any, device: str) -> Figures:
    """The second step of the plan: what PyTorch's allocator counted; nothing on a CPU, whose allocator does not."""
    from otr_plugin.command.memory import kernels, model, step

    real = replace(plan, attention="eager" if plan.attention == "eager" else "sdpa")
    whole = model.on_meta(config, real, on_paper=False)
    try:
        # Without a GPU, Liger's kernels are launched on nothing.
        with torch.device(device), kernels.as_on_a_gpu() if device == "cpu" else contextlib.nullcontext():
            model.complete(whole, real)
            done = step.Step(whole, real)
            if device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            done.run()
    finally:
        model.release(whole)
    return {} if device == "cpu" else {"allocated": torch.cuda.max_memory_allocated()}


def estimate_of(path: Path) -> int | None:
    """The bytes that the gallery's result file has for this text of the recipe."""
    for name, found in json.loads(RESULT.read_text())["recipes"].items():
        if name.endswith(path.relative_to(EXAMPLES).as_posix()) and found["source"] == path.read_text():
            return next((int(one["peak_bytes"]) for one in found.get("estimates", [])), None)
    return None


def lines(cells: dict[str, Figures]) -> list[str]:
    found = ["| recipe | estimate | measured | estimate beside it |", "|---|---:|---:|---:|"]
    for name, one in cells.items():
        measured = one.get("allocated") or one.get("counted")
        what = "" if "allocated" in one else " (count of real tensors)"
        if "failed" in one or not measured:
            estimate = _size(one["estimate"]) if "estimate" in one else ""
            found.append(f"| {name} | {estimate} | {one.get('failed', 'not measured')} | |")
            continue
        beside = f"{one['estimate'] / measured - 1:+.1%}" if one["estimate"] else ""
        found.append(f"| {name} | {_size(one['estimate'])} | {_size(measured)}{what} | {beside} |")
    return found


def _size(count: int | None) -> str:
    if count is None:
        return "none is kept"
    return f"{count / 2**30:.2f} GiB" if count > 2**28 else f"{count / 2**20:.2f} MiB"


def plot(cells: dict[str, Figures], path: Path) -> bool:
    from matplotlib import pyplot

    pairs = {
        name: (one["estimate"], one.get("allocated") or one["counted"])
        for name, one in cells.items()
        if one.get("estimate") and (one.get("allocated") or one.get("counted"))
    }
    if not pairs:
        return False
    unit, text = (2**30, "GiB") if max(max(pair) for pair in pairs.values()) > 2**28 else (2**20, "MiB")
    figure, axis = pyplot.subplots(figsize=(8, 1.2 + 0.5 * len(pairs)), layout="constrained")
    for row, (estimate, measured) in enumerate(pairs.values()):
        axis.barh(row - 0.18, estimate / unit, 0.34, color="#7aa6d8", label="estimate" if row == 0 else None)
        axis.barh(row + 0.18, measured / unit, 0.34, color="#3f8f5b", label="measured" if row == 0 else None)
    axis.set_yticks(range(len(pairs)), list(pairs))
    axis.invert_yaxis()
    axis.set_xlabel(f"{text} at the peak of a step")
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
