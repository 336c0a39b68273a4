"""Time and peak memory of a training step in the real Axolotl, without the plugin and with `plugins: [otr]`."""

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
PLAIN = "plain Axolotl"
CONTENDERS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "otr: sampled": {"plugins": ["otr"]},
    "otr: exact": {"plugins": ["otr"], "otr": {"estimator": "exact"}},
    "otr: sft": {"plugins": ["otr"], "otr": {"objective": "sft"}},
}
# The vocabulary of Qwen2.5 on layers small enough for a CPU: the language-model head takes most of the step.
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
    parser.add_argument("--rounds", type=int, default=2, help="runs of each contender, in turn (default 2)")
    parser.add_argument("--small", action="store_true", help="a tiny vocabulary, only to check that the benchmark runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "axolotl-cpu", help="result file, without its suffix")
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
    for name, probes in runs.items():
        results["contenders"][name] = {
            "seconds": statistics.median(seconds for probe in probes for seconds in probe["seconds"]),
            "megabytes": statistics.median(probe["megabytes"] for probe in probes),
        }
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))
    print(f"written to {args.out}.json and .md")


def render(results: dict[str, Any]) -> str:
    """Returns the Markdown page of the results."""
    recipe, model = results["recipe"], results["model"]
    method = (
        f"A random Llama with 2 layers, width {model['hidden_size']} and vocabulary {model['vocab_size']}; LoRA, "
        f"packing, {recipe['sequence_len']} tokens a step, float32. Medians over the steps of {results['rounds']} runs "
        "of each contender, which take turns. Memory is the peak during the steps above what the process held before."
    )
    return (
        "\n".join(["# A step in Axolotl on a CPU", "", provenance.describe(results), "", method, "", *table(results)])
        + "\n"
    )


def table(results: dict[str, Any]) -> list[str]:
    """Returns the lines of a Markdown table: a row for each contender."""
    lines = ["| | step | memory | time × plain | memory × plain |", "|---|---:|---:|---:|---:|"]
    plain = results["contenders"][PLAIN]
    for name, figures in results["contenders"].items():
        time = figures["seconds"] / plain["seconds"]
        # A tiny model may need no more memory than its process held before.
        memory = f"{figures['megabytes'] / plain['megabytes']:.2f}" if plain["megabytes"] else "-"
        measured = f"{figures['seconds']:.2f} s | {figures['megabytes']:,.0f} MB"
        lines.append(f"| {name} | {measured} | {time:.2f} | {memory} |")
    return lines


def readme_figures(results: dict[str, Any]) -> list[str]:
    """Returns the lines of the README's table."""
    return [*table(results), "", provenance.describe(results)]
