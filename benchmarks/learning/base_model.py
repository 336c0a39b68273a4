"""Base models: Llama models pretrained from random weights on every base skill until they have learnt them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.base_skills import BASE_SKILLS, generate_examples
from benchmarks.learning.evaluation import share_correct
from benchmarks.learning.plan import Size
from benchmarks.learning.vocabulary import END, PAD, TOKENS, collate
from benchmarks.string_skills import Example

VALIDATION_INTERVAL = 250  # steps
VALIDATION_QUESTIONS, TEST_QUESTIONS = 64, 200  # of each skill
WARM_UP_STEPS = 100


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def new_model(size: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(size.base_seed)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=size.width,
        intermediate_size=size.width * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    return LlamaForCausalLM(config).to(device())


def settings(size: Size) -> dict[str, Any]:
    """Everything that a base model depends on."""
    names = ("width", "layers", "heads", "base_rate", "base_batch", "base_steps", "base_decay", "base_level")
    seed = {"base_seed": size.base_seed} if size.base_seed else {}  # base models of seed 0 are recorded without it
    return {name: getattr(size, name) for name in names} | {"skills": sorted(BASE_SKILLS)} | seed


def load(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, local_files_only=True).float().to(device())


def pretrain(
    size: Size, folder: Path, report_progress: Callable[[float], None], deadline: float
) -> dict[str, Any] | None:
    """Pretrains a base model into `folder` and returns its figures, or None if the deadline came first.

    An unfinished model is saved in `folder`, and the next call continues from there. The learning rate is constant
    until every skill reaches size.base_level, then decays linearly to zero. Weaker skills get more examples.
    """
    model = new_model(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.base_rate, betas=(0.9, 0.98), weight_decay=0.01)
    unfinished = folder / "unfinished.pt"
    state: dict[str, Any] = {"step": 0, "accuracy": dict.fromkeys(BASE_SKILLS, 0.0), "decay_from": None, "seconds": 0.0}
    saved = torch.load(unfinished, map_location=device(), weights_only=True) if unfinished.exists() else {}
    if saved.get("settings") == settings(size):  # a model with other settings cannot be continued
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    start = time.monotonic() - state["seconds"]
    while state["decay_from"] is None or state["step"] < phase_end(size, state):
        if time.monotonic() > deadline:
            return None
        for _ in range(min(VALIDATION_INTERVAL, phase_end(size, state) - state["step"])):
            _step(model, optimizer, size, state)
        state["seconds"] = time.monotonic() - start
        state["accuracy"] = accuracy_by_skill(model, "validation", VALIDATION_QUESTIONS)
        learnt = min(state["accuracy"].values()) >= size.base_level
        if state["decay_from"] is None and (learnt or state["step"] >= size.base_steps):
            state["decay_from"] = state["step"]
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(checkpoint | {"state": state, "settings": settings(size)}, unfinished.with_suffix(".new"))
        unfinished.with_suffix(".new").replace(unfinished)
        report_progress(state["step"] / ((state["decay_from"] or size.base_steps) + size.base_decay))
    model.save_pretrained(folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "seconds": state["seconds"],
        "skills": accuracy_by_skill(model, "test", TEST_QUESTIONS),
    }


def phase_end(size: Size, state: dict[str, Any]) -> int:
    """The last step of the phase with a constant learning rate, or of the decay once that has begun."""
    if state["decay_from"] is None:
        return size.base_steps
    return int(state["decay_from"]) + size.base_decay


def _step(model: Any, optimizer: Any, size: Size, state: dict[str, Any]) -> None:
    step, decay_from = state["step"], state["decay_from"]
    rate = size.base_rate * min(1.0, (step + 1) / WARM_UP_STEPS)
    if decay_from is not None:
        rate *= 1 - (step - decay_from) / size.base_decay
    for group in optimizer.param_groups:
        group["lr"] = rate
    examples = training_batch(step, size.base_batch, state["accuracy"], size.base_seed)
    examples.sort(key=lambda example: len(example[0]) + len(example[1]))
    half = len(examples) // 2  # two micro-batches, so that short examples are not padded to the longest one
    trained_tokens = sum(len(answer) + 1 for _, answer in examples)
    for part in (examples[:half], examples[half:]):
        model(**collate(part, model.device), num_items_in_batch=trained_tokens).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    state["step"] += 1


def training_batch(step: int, count: int, accuracy: dict[str, float], seed: int = 0) -> list[Example]:
    """The examples of one step. They depend only on the seed, the step and the last validation, so that a resumed
    pretraining sees the same ones."""
    drawn_with = f"{seed} {step}" if seed else step
    weights = [0.15 + (1 - accuracy[skill]) for skill in BASE_SKILLS]
    chosen = random.Random(f"practice {drawn_with}").choices(list(BASE_SKILLS), weights, k=count)
    return [
        example
        for skill in BASE_SKILLS
        for example in islice(generate_examples(skill, "train", drawn_with), chosen.count(skill))
    ]


def accuracy_by_skill(model: Any, split: str, count: int) -> dict[str, float]:
    return {
        skill: share_correct(model, list(islice(generate_examples(skill, split, "held out"), count)))
        for skill in BASE_SKILLS
    }
