"""Tiny models with each kind of head, and their batches. The same on every rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.engines.cells import FROZEN, LORA, RANKS, SAVED, TIED, Case

VOCABULARY = 67
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
OF_KIND: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 0.3},
    "gemma2": {"final_logit_softcapping": 2.0},
}


def make(kind: str, head: str) -> Any:
    """A model with random weights that bfloat16 represents, in training mode. Frozen heads have LoRA elsewhere."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | OF_KIND[kind], tie_word_embeddings=head == TIED)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    if head in (FROZEN, LORA, SAVED):
        from peft import LoraConfig, get_peft_model

        targets = ["q_proj", "v_proj"] + (["lm_head"] if head == LORA else [])
        saved = ["lm_head"] if head == SAVED else None
        adapter = LoraConfig(
            r=4, lora_alpha=8, target_modules=targets, modules_to_save=saved, task_type="CAUSAL_LM", lora_dropout=0.0
        )
        model = get_peft_model(model, adapter)
    return model.train()


@torch.no_grad()
def randomise(model: Any) -> None:
    """LoRA's B is zero at first, which would hide errors; weights of usual size would hide a softcap."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # tied ones once
        if parameter.dim() > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        parameter.copy_(parameter.bfloat16().float())


def micro_batches(case: Case, step: int) -> list[list[dict[str, Tensor]]]:
    """The batches of a step: [micro-batch][rank]."""
    return [
        [_batch(case, 100 * step + 10 * number, rank) for rank in range(RANKS)] for number in range(case.micro_batches)
    ]


def _batch(case: Case, seed: int, rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed + rank)
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=generator)
    trained = torch.rand(ids.shape, generator=generator) < (0.8 if rank == 0 else 0.3)
    labels = ids.masked_fill(~trained, -100)
    if rank == 0:
        labels[0, 1] = ids[0, 1]  # at least one token is trained
    elif case.masked_rank:
        labels.fill_(-100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def trained_tokens(step: list[list[dict[str, Tensor]]]) -> Tensor:
    return sum(((batch["labels"][:, 1:] != -100).sum() for ranks in step for batch in ranks), torch.tensor(0))
