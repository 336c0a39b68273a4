"""How a text becomes tokens: one token per character, 64 tokens in all."""

from __future__ import annotations

import torch

from benchmarks import string_skills
from benchmarks.string_skills import Example
from otr_plugin.loss.checks import IGNORE_INDEX

NEW_CHARACTERS = "[]!"  # in the vocabulary, but in no text that a base model is pretrained on
USED_TOKENS = ["<pad>", "<s>", "</s>", "<unk>", *string_skills.CHARACTERS, *"-?,> ", *NEW_CHARACTERS, *"*/()"]
TOKENS = USED_TOKENS + [f"<unused {i}>" for i in range(64 - len(USED_TOKENS))]
TOKEN_IDS = {token: i for i, token in enumerate(TOKENS)}
PAD, END = TOKEN_IDS["<pad>"], TOKEN_IDS["</s>"]


def encode(text: str) -> list[int]:
    return [TOKEN_IDS[character] for character in text]


def decode(ids: list[int]) -> str:
    """The text before the end token. Without an end token it gets the suffix "...", which no correct answer has."""
    if END not in ids:
        return "".join(TOKENS[i] for i in ids) + "..."
    return "".join(TOKENS[i] for i in ids[: ids.index(END)])


def collate(examples: list[Example], device: torch.device) -> dict[str, torch.Tensor]:
    """A padded batch of questions with their answers. Only the answers and their end tokens are trained."""
    rows, labels = [], []
    for question, answer in examples:
        question_ids, answer_ids = encode(question), [*encode(answer), END]
        rows.append(torch.tensor(question_ids + answer_ids))
        labels.append(torch.tensor([IGNORE_INDEX] * len(question_ids) + answer_ids))
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_value=PAD).to(device),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE_INDEX).to(device),
    }
