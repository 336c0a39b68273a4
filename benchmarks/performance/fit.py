"""The longest sequence that trains under a cap on GPU memory, as on a consumer's card: QLoRA of 7B and 8B shapes.

Weights are random and stored in 4 bits (bitsandbytes, NF4), with LoRA of rank 16 on every linear layer except the
head, gradient checkpointing, and one sequence per step of AdamW. PyTorch enforces the cap on the memory that this
process allocates; memory that CUDA itself takes is not counted. Each cell of the table is measured in a process of its
own and written at once: the same command, run again, measures the cells that are missing.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import provenance
from benchmarks.paths import RESULTS
from benchmarks.performance.gpu import device_for, gpu_name
from otr_plugin import OTRConfig, attach
from otr_plugin.loss.reference import otr_loss_on_logits

QWEN: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen2.5-7B": ("qwen2", QWEN),
    "Llama-3.1-8B": ("llama", LLAMA),
    "tiny": ("llama", TINY | {"num_key_value_heads": 2, "vocab_size": 512}),
}
CAPS = (8, 12, 16, 24)  # GiB
SFT, LIGER, BY_HAND, OURS = METHODS = (
    "SFT, whole logits",
    "SFT, Liger's fused CE",
    "OTR by hand, whole logits",
    "OTR, ours",
)
STEP, LONGEST = 512, 2**17  # tokens
LONGEST_ON_CPU = 1024


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--small",
        action="store_true",
        help="a tiny model, on a CPU if there is no GPU, only to check that the benchmark runs",
    )
    parser.add_argument("--minutes", type=float, default=9, help="start no new cell after so many minutes (default 9)")
    parser.add_argument("--out", type=Path, default=RESULTS / "fit", help="result file, without its suffix")
    parser.add_argument("--cell", nargs=3, metavar=("SHAPE", "GIB", "METHOD"), help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    if args.cell:
        print(json.dumps(longest(args.cell[0], float(args.cell[1]), args.cell[2])))
        return
    gpu = gpu_name(device_for("fit", args.small))
    shapes, caps = (["tiny"], CAPS[:1]) if args.small else (["Qwen2.5-7B", "Llama-3.1-8B"], CAPS)
    kept = args.out.with_suffix(".json")
    results = json.loads(kept.read_text()) if kept.exists() else {"cells": []}
    packages = ("torch", "triton", "transformers", "peft", "bitsandbytes", "liger-kernel")
    results |= provenance.collect(packages) | {"gpu": gpu}
    end = time.monotonic() + 60 * args.minutes
    for cell in [(shape, cap, method) for shape in shapes for cap in caps for method in METHODS]:
        if any((c["shape"], c["gib"], c["method"]) == cell for c in results["cells"]):
            continue
        if time.monotonic() > end:
            print("The time is up; the same command, run again, measures the missing cells.")
            break
        results["cells"].append(longest_in_new_process(*cell))
        print(results["cells"][-1], flush=True)
        provenance.write_results(args.out, results, render(results))
    Console().print(Markdown(render(results)))
    print(f"written to {args.out}.json and .md")


def longest_in_new_process(shape: str, gib: int, method: str) -> dict[str, Any]:
    """Returns the cell: what `longest` returns, or the last line of the error that ended the process."""
    command = [sys.executable, "-m", "benchmarks", "fit", "--cell", shape, str(gib), method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    cell: dict[str, Any] = {"shape": shape, "gib": gib, "method": method}
    if done.returncode:
        return cell | {"failed": done.stderr.strip().splitlines()[-1][:200]}
    return cell | dict(json.loads(done.stdout.splitlines()[-1]))


def longest(shape: str, gib: float, method: str) -> dict[str, Any]:
    """Returns the largest number of tokens, a multiple of STEP, with which a training step succeeds under the cap.

    "at least" marks a search that ended at its limit instead of at the cap.
    """
    limit = LONGEST if torch.cuda.is_available() else LONGEST_ON_CPU
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)
    try:
        step = training_step(shape, method)
    except torch.OutOfMemoryError:
        return {"tokens": 0}
    if not fits(step, STEP):
        return {"tokens": 0}
    good, bad = STEP, STEP * 2
    while bad <= limit and fits(step, bad):
        good, bad = bad, bad * 2
    if bad > limit:
        return {"tokens": good, "at least": True}
    while bad - good > STEP:
        middle = (good + bad) // 2 // STEP * STEP
        good, bad = (middle, bad) if fits(step, middle) else (good, middle)
    return {"tokens": good}


def fits(step: Callable[[int], None], tokens: int) -> bool:
    """Whether a training step on so many tokens succeeds without running out of memory."""
    try:
        step(tokens)
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def training_step(shape: str, method: str) -> Callable[[int], None]:
    """Returns a function that does a training step on one sequence of the given number of tokens."""
    from peft import LoraConfig, get_peft_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, settings = SHAPES[shape]
    if method == LIGER:
        from liger_kernel import transformers as liger

        off = {"rope": False, "rms_norm": False, "swiglu": False}
        getattr(liger, f"apply_liger_kernel_to_{kind}")(fused_linear_cross_entropy=True, cross_entropy=False, **off)
    model = four_bit_model(kind, settings, device)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    model.enable_input_require_grads()
    model.train()
    if method == OURS:
        attach(model, OTRConfig())
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)

    def step(tokens: int) -> None:
        ids = torch.randint(0, settings["vocab_size"], (1, tokens), device=device)
        try:
            if method == BY_HAND:
                backward_by_hand(model, ids)
            else:
                model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
        finally:
            optimizer.zero_grad()

    return step


def backward_by_hand(model: Any, ids: torch.Tensor) -> None:
    """The backward pass of OTR on whole logits, by the specification."""
    config = OTRConfig()
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    uniforms = torch.rand(len(logits), config.samples, device=logits.device)
    otr_loss_on_logits(logits, ids[0, 1:], config, uniforms=uniforms)[0].backward()


def four_bit_model(kind: str, settings: dict[str, Any], device: str) -> Any:
    """Returns a model with random weights, made and quantised layer by layer: in 16 bits it would exceed the cap."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, max_position_embeddings=LONGEST, **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                layer = Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=child.bias is not None,
                    compute_dtype=torch.bfloat16,
                    quant_type="nf4",
                    device="meta",
                )
                values = torch.randn(child.out_features, child.in_features, dtype=torch.bfloat16, device=device) * 0.02
                layer.weight = Params4bit(values, requires_grad=False, quant_type="nf4").to(device)
                if child.bias is not None:
                    layer.bias = nn.Parameter(torch.zeros(child.out_features, dtype=torch.bfloat16, device=device))
                setattr(module, name, layer)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                values = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
                values = values.fill_(1.0) if parameter.dim() == 1 else values.normal_(std=0.02)
                setattr(module, name, nn.Parameter(values, requires_grad=False))
    return model


def render(results: dict[str, Any]) -> str:
    lines = ["# The longest sequence that trains", "", f"{results['gpu']}. {provenance.describe(results)}", ""]
    lines += [" ".join((__doc__ or "").split("\n\n")[1].split()), "", *table(results)]
    return "\n".join(lines) + "\n"


def table(results: dict[str, Any]) -> list[str]:
    lines = ["| | cap | " + " | ".join(METHODS) + " |", "|---|---:|" + "---:|" * len(METHODS)]
    cells = {(c["shape"], c["gib"], c["method"]): c for c in results["cells"]}
    for shape, gib in dict.fromkeys((c["shape"], c["gib"]) for c in results["cells"]):
        texts = [cell_text(cells.get((shape, gib, method))) for method in METHODS]
        lines.append(f"| {shape} | {gib} GiB | " + " | ".join(texts) + " |")
    return lines


def cell_text(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "not measured"
    if "failed" in cell:
        return str(cell["failed"])
    return f"{'≥ ' if cell.get('at least') else ''}{cell['tokens']:,}"
