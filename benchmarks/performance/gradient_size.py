"""The size of OTR's gradient beside that of SFT, on models that learn something new and on fresh ones.

The norm over all parameters, as a trainer computes it for max_grad_norm, at one batch. Draws are averaged over.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor, nn

from benchmarks import provenance
from benchmarks.paths import RESULTS
from benchmarks.quickstart.data import MODEL, OLD_SKILLS, old_skill_questions, training_examples
from otr_plugin import OTRConfig, attach

SFT = "sft"
METHODS = {
    SFT: OTRConfig(objective="sft"),
    "dft": OTRConfig(objective="dft"),
    "otr": OTRConfig(),
    "otr, exact": OTRConfig(estimator="exact"),
    "otr, nll_weight 0.1": OTRConfig(nll_weight=0.1),
}
VOCABULARIES = (1000, 32_000, 151_936)
DRAWS = 5


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=RESULTS / "gradient-size-cpu", help="result file without suffix")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    results: dict[str, Any] = provenance.collect(("torch", "transformers"))
    results |= {"draws": DRAWS, "norms": {name: norms(*case) for name, case in cases().items()}}
    page = render(results)
    provenance.write_results(args.out, results, page)
    Console().print(Markdown(page))


def cases() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Returns models with a batch each: (model, input_ids, labels)."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    trained = AutoModelForCausalLM.from_pretrained(MODEL)
    known = [pair for skill in OLD_SKILLS for pair in old_skill_questions(skill, 32, seed=5)]
    found: dict[str, tuple[nn.Module, Tensor, Tensor]] = {
        "trained model, what it has learnt": (trained, *_batch(known)),
        "trained model, a new task": (trained, *_batch(training_examples()[:192])),
    }
    for vocabulary in VOCABULARIES:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
        )
        ids = torch.randint(vocabulary, (8, 64))
        found[f"fresh model, {vocabulary:,} tokens"] = (LlamaForCausalLM(config), ids, ids)
    return found


def _batch(examples: list[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Returns input_ids and labels, which leave out questions and padding."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = [
        (tokenizer(q, add_special_tokens=False).input_ids, tokenizer(a, add_special_tokens=False).input_ids)
        for q, a in examples
    ]
    width = max(len(q) + len(a) for q, a in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full_like(ids, -100)
    for i, (q, a) in enumerate(rows):
        ids[i, : len(q) + len(a)] = torch.tensor(q + a)
        labels[i, len(q) : len(q) + len(a)] = torch.tensor(a)
    return ids, labels


def norms(model: nn.Module, ids: Tensor, labels: Tensor) -> dict[str, float]:
    """Returns each method's norm of the gradient."""
    model.train()
    found = {}
    for name, config in METHODS.items():
        handle = attach(model, config)
        sizes = []
        for step in range(DRAWS if config.draws else 1):
            handle.start_step(step)
            model.zero_grad()
            model(input_ids=ids, labels=labels).loss.backward()
            sizes.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))
        handle.detach()
        found[name] = statistics.mean(sizes)
    return found


def render(results: dict[str, Any]) -> str:
    return "\n".join(["# The size of the gradient", "", *readme_figures(results), ""])


def readme_figures(results: dict[str, Any]) -> list[str]:
    """Returns the table: SFT's norm, and how many times smaller the others are."""
    others = [name for name in METHODS if name != SFT]
    lines = ["| | SFT's norm | " + " | ".join(others) + " |", "|---|" + "---:|" * (1 + len(others))]
    for case, found in results["norms"].items():
        ratios = (_rounded(found[SFT] / found[name]) for name in others)
        lines.append(f"| {case} | {found[SFT]:.2g} | {' | '.join(ratios)} |")
    explanation = (
        "The columns after SFT's norm say how many times smaller each gradient is. The norm is over all parameters, at "
        f"one batch, and the mean over {results['draws']} draws."
    )
    return [*lines, "", explanation, "", provenance.describe(results)]


def _rounded(ratio: float) -> str:
    """Two digits, as in 1.3, 13 and 130."""
    return f"{ratio:.1f}" if ratio < 10 else f"{round(ratio, 2 - len(str(int(ratio)))):,.0f}"
