"""The tables, the cards and the picture of docs/recipes.md, from the recipes and the estimates in gallery.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import provenance
from benchmarks.gallery.recipes import HOSTS, card_of, model_of, recipes
from benchmarks.paths import ROOT

GIB = 2**30
COLOURS = {
    "weights": "#3b6fb6",
    "adapters": "#7aa6d8",
    "optimiser": "#3f8f5b",
    "gradients": "#93c47d",
    "activations": "#d1642e",
    "logits": "#b03a62",
}
PLAIN = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}  # behind a label, over the line of the card
MADE = "not measured on a card"


def gallery() -> dict[str, Path]:
    """The recipes by the name of their pair."""
    return {path.stem.removesuffix("-otr"): path for host in HOSTS for path in recipes(host)}


def table(results: dict[str, Any]) -> list[str]:
    """The index: one line for each pair."""
    lines = ["| recipe | host | model | method | GPUs | estimate |", "|---|---|---|---|---|---:|"]
    for name, path in gallery().items():
        recipe = yaml.safe_load(path.read_text())
        peaks = _peaks(results, path)
        peak = f"{peaks['this recipe']:.1f} GiB" if peaks else "none, see its card"
        title = f"[{name}](#{name.replace('.', '')})"
        cells = (title, HOSTS[path.parent.name], f"`{model_of(recipe)}`", method(recipe), card(path), peak)
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", provenance.describe(results)]


def facts(name: str) -> Callable[[dict[str, Any]], list[str]]:
    """A renderer of one recipe's card."""

    def render(results: dict[str, Any]) -> list[str]:
        path = gallery()[name]
        recipe = yaml.safe_load(path.read_text())
        shown = path.relative_to(ROOT).as_posix()
        return [
            "| | |",
            "|---|---|",
            f"| recipes | `{shown}` and `{path.name.replace('-otr.', '-sft.')}` beside it |",
            f"| model | `{model_of(recipe)}` |",
            f"| data | `{data(recipe)}` |",
            f"| method | {method(recipe)} |",
            f"| batch | {batch(recipe)} |",
            f"| for | {card(path)} |",
            f"| estimate | {estimate(results, path)} |",
            f"| measured | {MADE} |",
        ]

    return render


def estimate(results: dict[str, Any], path: Path) -> str:
    """The peak memory of one GPU by `otr memory`, with OTR and with SFT; or why there is none."""
    found = results["recipes"].get(path.relative_to(ROOT).as_posix())
    if found is None or found["source"] != path.read_text():
        return "to come"
    if "error" in found:
        return f"`otr memory`: {found['error'].partition(': ')[2] or found['error']}".replace("|", "\\|")
    peaks = _peaks(results, path)
    of, each_of = card_of(path)
    others = [f"{name}: {peak:.1f} GiB" for name, peak in peaks.items() if name != "this recipe"]
    left_out = [f"not counted: {line}" for line in found["not_counted"]]
    whole = f"{peaks['this recipe']:.1f} of {each_of} GiB" + (" on each GPU" if of > 1 else "")
    without = [f"{name}: {reason}" for name, reason in found.get("not_estimated", {}).items()]
    return "; ".join([whole, *others, *without, *left_out]).replace("|", "\\|")


def _peaks(results: dict[str, Any], path: Path) -> dict[str, float]:
    found = results["recipes"].get(path.relative_to(ROOT).as_posix(), {})
    if found.get("source") != path.read_text():
        return {}
    return {each["name"]: each["peak_bytes"] / GIB for each in found.get("estimates", [])}


# What a recipe says


def method(recipe: dict[str, Any]) -> str:
    rank = recipe.get("lora_r") or recipe.get("lora_rank")
    four_bit = recipe.get("load_in_4bit") or recipe.get("quantization_bit") == 4
    words = [f"{'QLoRA' if four_bit else 'LoRA'}, rank {rank}" if rank else "full fine-tune"]
    packed = any(recipe.get(name) for name in ("sample_packing", "packing", "neat_packing"))
    words += ["packed"] if packed else []
    words += ["FSDP2"] if recipe.get("fsdp_version") == 2 else []
    words += ["DeepSpeed ZeRO-3"] if recipe.get("deepspeed") else []
    return ", ".join(words)


def batch(recipe: dict[str, Any]) -> str:
    length = next(recipe[name] for name in ("sequence_len", "cutoff_len", "max_length") if name in recipe)
    rows = next(recipe[name] for name in ("micro_batch_size", "per_device_train_batch_size") if name in recipe)
    count = recipe["gradient_accumulation_steps"]
    return f"{rows} row{'s' if rows > 1 else ''} of at most {length:,} tokens, {count} times accumulated, on each GPU"


def data(recipe: dict[str, Any]) -> str:
    named = recipe.get("datasets") or recipe.get("dataset_name") or recipe["dataset"]
    return named[0]["path"] if isinstance(named, list) else str(named).partition("#")[0]


def card(path: Path) -> str:
    count, gigabytes = card_of(path)
    return f"{count} × {gigabytes} GB"


# The picture


def plot(results: dict[str, Any], path: Path) -> None:
    """Writes a PNG: what takes the memory of one GPU at the peak, with OTR and with SFT on whole logits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    shown = {
        name: results["recipes"][key]
        for name, place in gallery().items()
        if "estimates" in results["recipes"].get(key := place.relative_to(ROOT).as_posix(), {})
    }
    figure, axis = pyplot.subplots(figsize=(10, 0.78 * len(shown) + 1.6), layout="constrained")
    ticks = []
    for row, (name, found) in enumerate(shown.items()):
        whole = max(found["estimates"], key=lambda each: each["parts"]["logits"])
        for place, each in ((row - 0.19, found["estimates"][0]), (row + 0.19, whole)):
            left = 0.0
            for part, colour in COLOURS.items():
                width = each["parts"][part] / GIB
                axis.barh(place, width, 0.34, left, color=colour, alpha=1 if each is found["estimates"][0] else 0.55)
                left += width
            label = "OTR" if each is found["estimates"][0] else "SFT, whole logits"
            axis.text(left + 0.6, place, f"{left:.1f}  {label}", va="center", fontsize=8, bbox=PLAIN)
        _, gigabytes = card_of(gallery()[name])
        axis.plot([gigabytes] * 2, [row - 0.42, row + 0.42], color="#444444", linewidth=1.6)
        ticks.append(name)
    axis.set_yticks(range(len(ticks)), ticks)
    axis.invert_yaxis()
    axis.set_xlabel("GiB of one GPU at the peak of a step; the upright line is the size of the card")
    axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=colour, label=part) for part, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    axis.set_title("Estimates of otr memory: counted from the sizes of tensors, not measured on a GPU", fontsize=10)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
