"""The base models: pretrained from nothing on every skill, until they have them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.evaluate import accuracy
from benchmarks.learning.plan import Size
from benchmarks.learning.skills import BASE, END, PAD, WORDS, batch_of, examples
from benchmarks.string_skills import Example

BETWEEN = 250  # steps between two looks at what the model can do
LOOK, ASKED = 64, 200  # questions of each skill: at a look, and when it is done
WARM_UP = 100


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def new_model(size: Size) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
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
    """All that a base model depends on."""
    names = ("width", "layers", "heads", "base_rate", "base_batch", "base_steps", "base_decay", "base_level")
    return {name: getattr(size, name) for name in names} | {"skills": sorted(BASE)}


def load(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, local_files_only=True).float().to(device())


def pretrain(size: Size, folder: Path, tell: Callable[[float], None], until: float) -> dict[str, Any] | None:
    """Figures of the base model that is now in `folder`, or None where `until` came first.

    The rate is constant until every skill is there, then falls to nothing. What is weak is practised more.
    """
    model = new_model(size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.base_rate, betas=(0.9, 0.98), weight_decay=0.01)
    kept = folder / "unfinished.pt"
    state: dict[str, Any] = {"step": 0, "scores": dict.fromkeys(BASE, 0.0), "decay_from": None, "seconds": 0.0}
    saved = torch.load(kept, map_location=device(), weights_only=True) if kept.exists() else {}
    if saved.get("made by") == settings(size):  # and not by a study that has changed since
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    start = time.monotonic() - state["seconds"]
    while state["decay_from"] is None or state["step"] < turn(size, state):
        if time.monotonic() > until:
            return None
        for _ in range(min(BETWEEN, turn(size, state) - state["step"])):
            _step(model, optimizer, size, state)
        state["seconds"] = time.monotonic() - start
        state["scores"] = scores(model, "validation", LOOK)
        ready = min(state["scores"].values()) >= size.base_level
        if state["decay_from"] is None and (ready or state["step"] >= size.base_steps):
            state["decay_from"] = state["step"]
        folder.mkdir(parents=True, exist_ok=True)
        whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(whole | {"state": state, "made by": settings(size)}, kept.with_suffix(".new"))
        kept.with_suffix(".new").replace(kept)
        tell(state["step"] / ((state["decay_from"] or size.base_steps) + size.base_decay))
    model.save_pretrained(folder)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "seconds": state["seconds"],
        "skills": scores(model, "test", ASKED),
    }


def turn(size: Size, state: dict[str, Any]) -> int:
    """The step at which the rate begins to fall, or then at which it is nothing."""
    if state["decay_from"] is None:
        return size.base_steps
    return int(state["decay_from"]) + size.base_decay


def _step(model: Any, optimizer: Any, size: Size, state: dict[str, Any]) -> None:
    step, decay_from = state["step"], state["decay_from"]
    rate = size.base_rate * min(1.0, (step + 1) / WARM_UP)
    if decay_from is not None:
        rate *= 1 - (step - decay_from) / size.base_decay
    for group in optimizer.param_groups:
        group["lr"] = rate
    pairs = practice(step, size.base_batch, state["scores"])
    pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    half = len(pairs) // 2  # the short ones need not be as wide as the long ones
    trained = sum(len(answer) + 1 for _, answer in pairs)
    for part in (pairs[:half], pairs[half:]):
        model(**batch_of(part, model.device), num_items_in_batch=trained).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    state["step"] += 1


def practice(step: int, count: int, scores: dict[str, float]) -> list[Example]:
    """One step's examples, which depend on nothing but the step and the last look at the skills."""
    weights = [0.15 + (1 - scores[skill]) for skill in BASE]
    chosen = random.Random(f"practice {step}").choices(list(BASE), weights, k=count)
    return [pair for skill in BASE for pair in islice(examples(skill, "train", step), chosen.count(skill))]


def scores(model: Any, split: str, asked: int) -> dict[str, float]:
    return {skill: accuracy(model, list(islice(examples(skill, split, "held out"), asked))) for skill in BASE}
