"""The small model of the quickstart and the examples, from nothing: half a million parameters, six small skills.

    python -m benchmarks pretrain          # a quarter of an hour on 2 cores

What it makes is carried in the repository, in example_configs/small, so that nobody has to wait for it: the model
with its tokenizer, questions of a skill that the model has not seen, and a note of what was measured.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from benchmarks import measuring
from benchmarks.paths import EXAMPLES
from benchmarks.quickstart.exact_match import accuracy
from benchmarks.string_skills import Example, examples, save_tokenizer

SMALL = EXAMPLES / "small"
OLD = ("copy", "rev", "asc", "max", "add", "next")
OLD_SIZES = range(1, 8)
NEW = "desc"
NEW_SIZES, HARDER_SIZES = range(3, 6), range(6, 8)
NEW_EXAMPLES = 768
ASKED = 500  # questions of each skill, when the model is measured
RATE = 3e-3
IGNORED = -100


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--out", type=Path, default=SMALL)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    folder = args.out / "model"
    tokenizer = save_tokenizer(folder)
    model = new_model(tokenizer)
    train(model, tokenizer, args.steps, args.batch)
    model.to(torch.bfloat16).save_pretrained(folder)
    model.float()  # as rounded
    scores = {skill: accuracy(model, tokenizer, held_out(skill, OLD_SIZES)) for skill in OLD}
    scores[NEW] = accuracy(model, tokenizer, held_out(NEW, NEW_SIZES))
    made = measuring.circumstances(("torch", "transformers")) | {"held-out accuracy": scores}
    (args.out / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    write_new_skill(args.out / f"{NEW}.jsonl")
    print(json.dumps(scores))


def held_out(skill: str, sizes: range) -> list[Example]:
    return list(islice(examples(skill, sizes, seed=1, test=True), ASKED))


def write_new_skill(path: Path) -> None:
    pairs = islice(examples(NEW, NEW_SIZES, seed=0, test=False), NEW_EXAMPLES)
    path.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in pairs))


def new_model(tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def train(model: Any, tokenizer: Any, steps: int, batch: int) -> None:
    streams = [examples(skill, OLD_SIZES, seed=0, test=False) for skill in OLD]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.05)
    with Progress() as progress:
        for _ in progress.track(range(steps), description="pretraining"):
            pairs = [pair for stream in streams for pair in islice(stream, batch // len(OLD))]
            loss = model(**batch_of(pairs, tokenizer)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def batch_of(pairs: list[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Questions and answers; only answers are trained, as a recipe with masked prompts does."""
    rows, labels = [], []
    for question, answer in pairs:
        q, a = tokenizer(question)["input_ids"], [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        rows.append(torch.tensor(q + a))
        labels.append(torch.tensor([IGNORED] * len(q) + a))
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {"input_ids": ids, "labels": pad(labels, batch_first=True, padding_value=IGNORED)}
