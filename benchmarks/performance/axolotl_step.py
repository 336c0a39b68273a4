"""A recipe's step time and peak memory in the real Axolotl: plain SFT, and with `plugins: [otr]`."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import provenance
from benchmarks.hosts.axolotl import Axolotl
from benchmarks.hosts.driver import make_model
from benchmarks.paths import RESULTS

PROBE = "benchmarks.performance.axolotl_probe.Probe"
CONTENDERS: dict[str, dict[str, Any]] = {
    "plain Axolotl": {},
    "otr: sampled": {"plugins": ["otr"]},
    "otr: exact": {"plugins": ["otr"], "otr": {"estimator": "exact"}},
    "otr: sft": {"plugins": ["otr"], "otr": {"objective": "sft"}},
}
PLAIN = "plain Axolotl"
# The vocabulary of Qwen2.5 over a body small enough for a CPU: the head is most of the step.
MODEL = {"vocab_size": 151936, "hidden_size": 512, "intermediate_size": 512, "max_position_embeddings": 1024}
RECIPE: dict[str, Any] = {
    "adapter": "lora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_target_modules": ["q_proj", "v_proj"],
    "train_on_inputs": True,
    "sample_packing": True,
    "pad_to_sequence_len": True,
    "sequence_len": 1024,
    "micro_batch_size": 1,
    "max_steps": 8,
}


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=2, help="runs of each contender, interleaved (default 2)")
    parser.add_argument("--small", action="store_true", help="a tiny vocabulary: does everything run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "axolotl-cpu")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    model = MODEL | ({"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64} if args.small else {})
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        host = Axolotl(Path(folder), examples=4000)
        make_model(host.folder / "model", **model)
        for turn in range(args.rounds):
            for name, changes in CONTENDERS.items():
                print(f"round {turn + 1} of {args.rounds}: {name}", flush=True)
                plugins = [*changes.get("plugins", []), PROBE]
                host.call("train", str(host.recipe("run", **RECIPE | changes | {"plugins": plugins})))
                runs[name].append(json.loads((host.folder / "run" / "probe.json").read_text()))
    results: dict[str, Any] = provenance.collect(("axolotl", "torch", "transformers", "peft"))
    results |= {"model": model, "recipe": RECIPE, "rounds": args.rounds, "contenders": {}}
    steps = {name: [s for one in many for s in one["seconds"]] for name, many in runs.items()}
    for name, many in runs.items():
        results["contenders"][name] = {
            "seconds": statistics.median(steps[name]),
            "megabytes": statistics.median(one["megabytes"] for one in many),
        }
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))
    print(f"kept in {args.out}.json and .md")


def render(results: dict[str, Any]) -> str:
    recipe, model = results["recipe"], results["model"]
    how = (
        f"A random Llama of 2 layers, width {model['hidden_size']}, vocabulary {model['vocab_size']}; LoRA, packed, "
        f"{recipe['sequence_len']} tokens a step, float32. Medians over the steps of {results['rounds']} runs of each, "
        "in turn; memory is the peak during steps beyond what the process held before them."
    )
    return (
        "\n".join(["# A step in Axolotl on a CPU", "", provenance.describe(results), "", how, "", *table(results)])
        + "\n"
    )


def table(results: dict[str, Any]) -> list[str]:
    lines = ["| | step | memory | time × plain | memory × plain |", "|---|---:|---:|---:|---:|"]
    plain = results["contenders"][PLAIN]
    for name, figures in results["contenders"].items():
        time, memory = figures["seconds"] / plain["seconds"], figures["megabytes"] / plain["megabytes"]
        lines.append(
            f"| {name} | {figures['seconds']:.2f} s | {figures['megabytes']:,.0f} MB | {time:.2f} | {memory:.2f} |"
        )
    return lines


def readme_figures(results: dict[str, Any]) -> list[str]:
    return [*table(results), "", provenance.describe(results)]
