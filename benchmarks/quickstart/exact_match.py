"""Is a generated answer the right one?"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.string_skills import Example

BATCH = 100


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, questions: list[Example]) -> float:
    """The share of questions that greedy decoding answers exactly, end of text included."""
    model.eval()
    right = 0
    for start in range(0, len(questions), BATCH):
        some = questions[start : start + BATCH]
        inputs = tokenizer([question for question, _ in some], return_tensors="pt", padding=True, padding_side="left")
        out = model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=max(len(answer) for _, answer in some) + 1,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        asked = inputs["input_ids"].shape[1]
        for (_, answer), row in zip(some, out[:, asked:].tolist(), strict=True):
            said = tokenizer.convert_ids_to_tokens(row)
            right += said[: len(answer) + 1] == [*answer, tokenizer.eos_token]
    return right / len(questions)
