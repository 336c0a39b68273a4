"""The longest sequence that trains under a cap on GPU memory, as on a consumer's card: QLoRA of 7B and 8B shapes.

Weights are random and stored in 4 bits (bitsandbytes, NF4), with LoRA of rank 16 on every linear layer except the
head, gradient checkpointing, and one sequence per step of AdamW. PyTorch enforces the cap on the memory that this
process allocates; memory that CUDA itself takes is not counted. Without bitsandbytes, the weights are bfloat16, and the
page says so.

Each cell is a process of its own, in which the model is made once, and the caps are tried from the smallest on.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import timed
from benchmarks.gpu.record import Context, Figures
from benchmarks.paths import ROOT
from otr_plugin import OTRConfig, attach

TITLE = "What fits into 8 to 24 GiB"
MINUTES = 8.0
INTERPRETED = True

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
SFT, LIGER, OURS = METHODS = ("SFT, whole logits", "SFT, Liger's fused loss", "OTR")
STEP, LONGEST = 512, 2**17  # tokens
LONGEST_ON_CPU = 512
RESOLUTION = 16  # the search ends at a sixteenth of the length
SAME_LENGTH = 2048  # tokens, at which all methods are timed, too
ROUNDS = 3


def cells(small: bool) -> list[str]:
    shapes = [name for name in SHAPES if (name == "tiny") == small]
    return [f"{shape}, {method}" for shape in shapes for method in METHODS]


def measure(cell: str, context: Context) -> Figures:
    shape, _, method = cell.partition(", ")
    if method == LIGER and importlib.util.find_spec("liger_kernel") is None:
        return {"failed": "liger-kernel is not installed"}
    if missing := [name for name in ("transformers", "peft") if importlib.util.find_spec(name) is None]:
        return {"failed": f"not installed: {', '.join(missing)}"}
    command = [sys.executable, "-m", "benchmarks.gpu.fit", shape, method]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.fit")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("method", choices=METHODS)
    args = parser.parse_args()
    print(json.dumps(under_caps(args.shape, args.method)))


def under_caps(shape: str, method: str) -> Figures:
    """For every cap, the longest sequence and its tokens a second; and the tokens a second at SAME_LENGTH."""
    on_gpu = torch.cuda.is_available()
    total = torch.cuda.get_device_properties(0).total_memory if on_gpu else 0
    step = training_step(shape, method)
    found: Figures = {"weights": "NF4" if four_bits() else "bfloat16", "caps": {}}
    start = STEP
    for cap in CAPS if on_gpu else CAPS[:1]:
        if on_gpu:
            if cap * 2**30 > total:
                found["caps"][str(cap)] = {"failed": "the card has less"}
                continue
            torch.cuda.set_per_process_memory_fraction(cap * 2**30 / total)
        tokens, at_limit = longest(lambda length: fits(step, length), start, LONGEST if on_gpu else LONGEST_ON_CPU)
        entry: Figures = {"tokens": tokens, "at least": at_limit}
        if tokens:
            entry["tokens a second"] = tokens / _seconds(step, tokens)
            start = tokens
        if tokens >= SAME_LENGTH and "tokens a second" not in found:
            found["tokens a second"] = SAME_LENGTH / _seconds(step, SAME_LENGTH)
        found["caps"][str(cap)] = entry
    return found


def longest(fits: Callable[[int], bool], start: int, limit: int) -> tuple[int, bool]:
    """The largest number of tokens that fits, in multiples of STEP, and whether the search ended at its limit.

    It is found to a RESOLUTION-th of itself. `start` is a guess: where it does not fit, the search begins at STEP.
    """
    good = start if fits(start) else 0
    if not good and (start == STEP or not fits(STEP)):
        return 0, False
    good = good or STEP
    bad = good * 2
    while bad <= limit and fits(bad):
        good, bad = bad, bad * 2
    if bad > limit:
        return good, True
    while bad - good > max(STEP, good // RESOLUTION):
        middle = (good + bad) // 2 // STEP * STEP
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good, False


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


def _seconds(step: Callable[[int], None], tokens: int) -> float:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rounds = ROUNDS if device == "cuda" else 1
    return statistics.median(timed.seconds_of(device, lambda: step(tokens)) for _ in range(rounds))


def four_bits() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def training_step(shape: str, method: str) -> Callable[[int], None]:
    """Returns a function that does a training step on one sequence of the given number of tokens."""
    from peft import LoraConfig, get_peft_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, settings = SHAPES[shape]
    if method == LIGER:
        from liger_kernel import transformers as liger

        off = {"rope": False, "rms_norm": False, "swiglu": False}
        getattr(liger, f"apply_liger_kernel_to_{kind}")(fused_linear_cross_entropy=True, cross_entropy=False, **off)
    model = model_with_random_weights(kind, settings, device)
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
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
        finally:
            optimizer.zero_grad()

    return step


def model_with_random_weights(kind: str, settings: dict[str, Any], device: str) -> Any:
    """Returns a model, made and quantised layer by layer: in 16 bits it would exceed the caps."""
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, max_position_embeddings=LONGEST, **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    if four_bits():
        _quantise(model, device)
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                values = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device)
                values = values.fill_(1.0) if parameter.dim() == 1 else values.normal_(std=0.02)
                setattr(module, name, nn.Parameter(values, requires_grad=False))
    return model


def _quantise(model: Any, device: str) -> None:
    """Replaces the linear layers, except the head, by 4-bit layers with random weights."""
    from bitsandbytes.nn import Linear4bit, Params4bit
    from torch import nn

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


def lines(cells: dict[str, Figures]) -> list[str]:
    measured = {name: one for name, one in cells.items() if "caps" in one}
    caps = list(dict.fromkeys(cap for one in measured.values() for cap in one["caps"]))
    head = ["model, method", "weights", *(f"{cap} GiB" for cap in caps), f"at {SAME_LENGTH:,} tokens"]
    found = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    for name, one in cells.items():
        if name not in measured:
            found.append(f"| {name} | {one.get('failed', 'not measured')} |" + " |" * (len(caps) + 1))
            continue
        texts = [_text(one["caps"].get(cap)) for cap in caps]
        same = f"{one['tokens a second']:,.0f} tokens/s" if "tokens a second" in one else ""
        found.append(f"| {name} | {one['weights']} | " + " | ".join(texts) + f" | {same} |")
    if any(one["weights"] != "NF4" for one in measured.values()):
        found += ["", "bitsandbytes is not installed: these are LoRA steps on bfloat16 weights, not QLoRA."]
    note = f"The longest sequence of a step, to a {RESOLUTION}th of it, and its tokens a second."
    return [note, "", *found] if measured else found


def _text(entry: Figures | None) -> str:
    if entry is None or "failed" in entry:
        return "" if entry is None else str(entry["failed"])
    if not entry["tokens"]:
        return "none fits"
    return f"{'≥ ' if entry['at least'] else ''}{entry['tokens']:,} ({entry['tokens a second']:,.0f} tokens/s)"


def plot(cells: dict[str, Figures], path: Path) -> bool:
    from matplotlib import pyplot

    measured = {name: one["caps"] for name, one in cells.items() if "caps" in one}
    if not measured:
        return False
    groups = list(dict.fromkeys((name.partition(", ")[0], cap) for name, caps in measured.items() for cap in caps))
    figure, axis = pyplot.subplots(figsize=(8, 1.4 + 0.55 * len(groups)), layout="constrained")
    for index, method in enumerate(METHODS):
        tokens = [measured.get(f"{shape}, {method}", {}).get(cap, {}).get("tokens", 0) for shape, cap in groups]
        axis.barh([row + 0.27 * (index - 1) for row in range(len(groups))], tokens, 0.25, label=method)
    axis.set_yticks(range(len(groups)), [f"{shape}, {cap} GiB" for shape, cap in groups])
    axis.invert_yaxis()
    axis.set_xlabel("tokens of the longest sequence that trains")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True


if __name__ == "__main__":
    main()
