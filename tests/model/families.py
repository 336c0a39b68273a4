"""Tiny models of many families with random weights, made from their configs without a download."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

V = 97
TINY: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
MOE = {"moe_intermediate_size": 24, "output_router_logits": True, "router_aux_loss_coef": 0.3}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {}),
    "phi3": ("phi3", {}),
    "gemma2, softcap": ("gemma2", {"final_logit_softcapping": 2.0}),
    "gemma3": ("gemma3_text", {}),
    "gemma3, softcap": ("gemma3_text", {"final_logit_softcapping": 1.5}),
    "granite, logits_scaling": ("granite", {"logits_scaling": 3.0}),
    "cohere, logit_scale": ("cohere", {"logit_scale": 0.25}),
    "olmo2": ("olmo2", {}),
    "mixtral, auxiliary loss": (
        "mixtral",
        {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 0.3},
    ),
    "qwen3_moe, auxiliary loss": (
        "qwen3_moe",
        MOE | {"num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "falcon_h1, lm_head_multiplier": (
        "falcon_h1",
        {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
        | {"mamba_n_groups": 1, "mamba_chunk_size": 8},
    ),
    "gpt2, tied": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64} | NO_DROPOUT),
    "phi, head with bias": ("phi", {}),
}


def tiny(name: str, seed: int = 0, **more: Any) -> Any:
    """The tiny model that FAMILIES has under this name, in float32 and training mode."""
    kind, settings = FAMILIES[name]
    config = AutoConfig.for_model(kind, **TINY | settings | more)
    return _randomised(lambda: AutoModelForCausalLM.from_config(config, attn_implementation="eager"), seed)


def tiny_vision_language(seed: int = 0) -> Any:
    """A Qwen2-VL, for batches of text without an image."""
    config = AutoConfig.for_model(
        "qwen2_vl",
        text_config=TINY | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=V - 1,
        video_token_id=V - 2,
        vision_start_token_id=V - 3,
        vision_end_token_id=V - 4,
    )
    return _randomised(lambda: AutoModelForImageTextToText.from_config(config, attn_implementation="eager"), seed)


def _randomised(make: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = make()
    for parameter in model.parameters():  # larger than usual, so that a softcap changes the logits
        if parameter.dim() > 1:
            parameter.data.mul_(4)
    for name, parameter in model.named_parameters():
        if name.endswith("lm_head.bias"):
            parameter.data.normal_()
    return model.float().train()


def batch(rows: int = 3, length: int = 11, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tokens, of which about 70% are labels; the first row begins with four that are not."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, V - 5, (rows, length), generator=g)
    labels = ids.masked_fill(torch.rand(rows, length, generator=g) < 0.3, -100)
    labels[0, :4] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
