"""Pretrains the small model of the quickstart and the examples: half a million parameters, six small skills.

    python -m benchmarks pretrain          # a quarter of an hour on 2 cores

Writes example_configs/small, which is kept in the repository so that nobody has to run this first: the model with its
tokenizer, the quickstart's training examples, and made.json with the exact match of each skill.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from benchmarks import provenance
from benchmarks.quickstart.data import (
    MODEL,
    NEW_SKILL,
    OLD_SIZES,
    OLD_SKILLS,
    REGIME,
    SMALL,
    TRAINING_FILE,
    old_skill_questions,
    training_lines,
)
from benchmarks.quickstart.exact_match import exact_match
from benchmarks.string_skills import Example, examples, save_tokenizer
from otr_plugin.loss.checks import IGNORE_INDEX

QUESTIONS = 500  # of each skill, to measure the pretrained model
LEARNING_RATE = 3e-3


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=5000, help="optimizer steps (default 5000)")
    parser.add_argument("--batch", type=int, default=192, help="examples of a step (default 192)")
    parser.add_argument("--out", type=Path, default=SMALL, help="folder to write (default example_configs/small)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    folder = args.out / MODEL.name
    tokenizer = save_tokenizer(folder)
    model = new_model(tokenizer)
    train(model, tokenizer, args.steps, args.batch)
    model.to(torch.bfloat16).save_pretrained(folder)
    model.float()  # The weights keep the rounding to bfloat16, as a user will load them.
    scores = exact_match_by_skill(model, tokenizer)
    made = provenance.collect(("torch", "transformers")) | {"exact match": scores}
    (args.out / "made.json").write_text(json.dumps(made, indent=1) + "\n")
    (args.out / TRAINING_FILE.name).write_text(training_lines())
    print(json.dumps(scores))


def exact_match_by_skill(model: Any, tokenizer: Any) -> dict[str, float]:
    """Returns the exact match on held-out questions of every old skill and of the new one."""
    questions = {skill: old_skill_questions(skill, QUESTIONS, seed=1) for skill in OLD_SKILLS}
    questions[NEW_SKILL] = REGIME.test(QUESTIONS)
    return {skill: exact_match(model, tokenizer, pairs) for skill, pairs in questions.items()}


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
    streams = [examples(skill, OLD_SIZES, seed=0, test=False) for skill in OLD_SKILLS]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.05)
    with Progress() as progress:
        for _ in progress.track(range(steps), description="pretraining"):
            pairs = [pair for stream in streams for pair in islice(stream, batch // len(OLD_SKILLS))]
            loss = model(**batch_of(pairs, tokenizer)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()


def batch_of(pairs: list[Example], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Returns input_ids and labels of questions with their answers; only the tokens of the answers are trained."""
    rows, labels = [], []
    for question, answer in pairs:
        q, a = tokenizer(question)["input_ids"], [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
        rows.append(torch.tensor(q + a))
        labels.append(torch.tensor([IGNORE_INDEX] * len(q) + a))
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {"input_ids": ids, "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX)}
