"""Gives the hosts data without anything to train, with a single token, and with labels that do not exist.

Each case trains without OTR, with OTR as plain SFT (`objective: sft`), whose digits should be the host's own, and with
OTR's own loss. The rows are token ids with labels, which Axolotl and Trainer take as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from benchmarks.faults.runs import SETTINGS, Runs
from benchmarks.hosts.driver import make_model, write_jsonl
from benchmarks.hosts.features.twins import LOSS, NORM, filled
from benchmarks.hosts.features.worker import Run

HOSTS = ("axolotl", "transformers")

# The results.
SAME = "same digits"
BOTH_ERRORS = "both end with an error"
REFUSED = "only OTR ends with an error"
ONLY_WITH_OTR = "only the host alone ends with an error"
HOSTS_NAN = "the host alone logs NaN, OTR does not"
NOT_FINITE = "NaN with OTR"
DIFFERS = "differs"
MASK, VOCABULARY = -100, 64
Row = tuple[list[int], list[int]]  # tokens and labels


def _rows(labels: Callable[[int, list[int]], list[int]], length: int = 6) -> list[Row]:
    rows = [[5 + (i + j) % 40 for j in range(length)] for i in range(16)]
    return [(tokens, labels(i, tokens)) for i, tokens in enumerate(rows)]


def _last_only(_: int, tokens: list[int]) -> list[int]:
    return [MASK] * (len(tokens) - 1) + tokens[-1:]


# Names as the page has them: (rows, vocabulary of the model, or None for the driver's).
CASES: dict[str, tuple[list[Row], int | None]] = {
    "every other batch without a label": (_rows(lambda i, t: t if i % 2 else [MASK] * len(t)), None),
    "no label in the whole data": (_rows(lambda _, t: [MASK] * len(t)), None),
    "one label in each row": (_rows(_last_only), None),
    "only the first token has a label": (_rows(lambda _, t: t[:1] + [MASK] * (len(t) - 1)), None),
    "rows of one token": (_rows(lambda _, t: t, length=1), None),
    "rows of two tokens": (_rows(lambda _, t: t, length=2), None),
    "a label as large as the vocabulary": (_rows(lambda _, t: [*t[:-1], VOCABULARY]), None),
    "a label of -5": (_rows(lambda _, t: [*t[:-1], -5]), None),
    "a vocabulary of one": ([([0] * 6, [0] * 6)] * 16, 1),
    "a vocabulary of two": ([([i % 2, 0, 1, 0, 1, i % 2], [i % 2, 0, 1, 0, 1, 1]) for i in range(16)], 2),
    "a vocabulary of 1,000,000": (_rows(lambda _, t: t), 1_000_000),
}


def cases(host: str) -> list[str]:
    """Axolotl makes the model's vocabulary as large as the tokenizer's, so it has no small ones."""
    small = {"a vocabulary of one", "a vocabulary of two"} if host == "axolotl" else set()
    return [case for case in CASES if case not in small] if host in HOSTS else []


def cell(runs: Runs, case: str) -> dict[str, Any]:
    """How the run without OTR, the one with its SFT, and the one with its own loss end."""
    rows, vocabulary = CASES[case]
    folder, slug = runs.driver.folder, f"odd-{list(CASES).index(case)}"
    write_jsonl(
        folder / f"{slug}.jsonl",
        ({"input_ids": tokens, "labels": labels, "attention_mask": [1] * len(tokens)} for tokens, labels in rows),
    )
    keys = _keys(runs.name, slug)
    if vocabulary is not None:
        make_model(folder / f"{slug}-model", vocab_size=vocabulary, hidden_size=8, intermediate_size=8)
        keys |= {"base_model" if runs.name == "axolotl" else "model": f"{{folder}}/{slug}-model"}
    ended = {}
    for name, settings in (("plain", None), ("SFT", {"objective": "sft"}), ("OTR", SETTINGS)):
        recipe = filled(keys, {"{folder}": str(folder)})
        if settings is not None:
            recipe = runs.host.with_otr(recipe, **settings)
        ended[name] = runs.worker.run(runs.driver.recipe(f"{slug}-{name}", **recipe))
    return {name: _end(run) for name, run in ended.items()} | {"result": judge(*ended.values())}


def _keys(host: str, slug: str) -> dict[str, Any]:
    if host == "axolotl":
        data = {"path": f"{{folder}}/{slug}.jsonl", "ds_type": "json", "type": None}
        return {"datasets": [data], "micro_batch_size": 1, "max_steps": 4}
    # Trainer would log 0 for NaN.
    one = {"per_device_train_batch_size": 1, "max_steps": 4, "logging_nan_inf_filter": False}
    return {"data": f"{slug}.jsonl"} | one


def _end(run: Run) -> str:
    """The losses of a run, or its error."""
    return run.error[:300] if run.error else ", ".join(f"{loss:.6g}" for loss, _ in run.steps)


def judge(plain: Run, sft: Run, ours: Run) -> str:
    """The three runs in words."""
    if sft.error or ours.error:
        if not (sft.error and ours.error):
            return DIFFERS
        return BOTH_ERRORS if plain.error else REFUSED
    if plain.error:
        return ONLY_WITH_OTR
    if not _finite(sft) or not _finite(ours):
        return NOT_FINITE
    if not _finite(plain):
        return HOSTS_NAN
    pairs = zip(sft.steps, plain.steps, strict=True)
    close = all(_close(a[0], b[0], LOSS) and _close(a[1], b[1], NORM) for a, b in pairs)
    return SAME if close else DIFFERS


def _finite(run: Run) -> bool:
    return bool(run.steps) and all(math.isfinite(value) for step in run.steps for value in step)


def _close(ours: float, own: float, bound: float) -> bool:
    return abs(ours - own) <= bound * max(abs(own), 1e-6)
