"""Exact match: the share of questions for which the generated answer equals the expected one."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.string_skills import Example

BATCH = 100


@torch.no_grad()
def exact_match(model: Any, tokenizer: Any, questions: list[Example]) -> float:
    """Returns the share of questions that greedy decoding answers exactly, end of text included."""
    model.eval()
    matches = 0
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        inputs = tokenizer([question for question, _ in batch], return_tensors="pt", padding=True, padding_side="left")
        output = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max(len(answer) for _, answer in batch) + 1,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        prompt_length = inputs["input_ids"].shape[1]
        for (_, answer), row in zip(batch, output[:, prompt_length:].tolist(), strict=True):
            generated = tokenizer.convert_ids_to_tokens(row)
            matches += generated[: len(answer) + 1] == [*answer, tokenizer.eos_token]
    return matches / len(questions)
