"""Models and data beside those of the drivers: one folder or file for every feature that needs its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.hosts.driver import sums, write_jsonl

# Every host's tokenizer gets it. The tags mark what an assistant says, for hosts that train by them.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message.content }} {% endif %}{% endfor %}"
)
# Families by folder: the model type, and what its configuration has beside the sizes of the driver's Llama.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("llama", {"tie_word_embeddings": True}),
    "biased": ("phi", {"tie_word_embeddings": False}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 4, "head_dim": 16}),
    "experts": ("mixtral", {"num_local_experts": 4}),
    "balanced-experts": (
        "mixtral",
        {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 0.5},
    ),
    "gemma2": ("gemma2", {"head_dim": 16, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
    "granite": ("granite", {"logits_scaling": 4.0}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "mamba": ("mamba", {"state_size": 4, "expand": 2}),
}


def add_models(like: Path) -> None:
    """Writes the random models of MODELS beside the folder `like`, with its sizes and tokenizer; adds a template."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    (like / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    own = json.loads((like / "config.json").read_text())
    shared = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "max_position_embeddings"]
    shared += ["num_attention_heads", "num_key_value_heads", "pad_token_id", "bos_token_id", "eos_token_id"]
    sizes = {name: own[name] for name in shared}
    for name, (kind, more) in MODELS.items():
        shutil.copytree(like, like.parent / name, dirs_exist_ok=True)
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **sizes | more)
        AutoModelForCausalLM.from_config(config).save_pretrained(like.parent / name)


def add_data(folder: Path) -> None:
    """Writes the same sums in several forms, some as JSON lines, some as JSON."""
    pairs = sums()
    chats = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}] * (1 + i % 2)
        for i, (q, a) in enumerate(pairs)
    ]
    with_system = [[{"role": "system", "content": "add."}, *chat] for chat in chats]
    roles = {"user": "human", "assistant": "gpt"}
    rows: dict[str, list[dict[str, Any]]] = {
        "chats": [{"messages": chat} for chat in chats],
        "system": [{"messages": chat} for chat in with_system],
        "sharegpt": [
            {"conversations": [{"from": roles[turn["role"]], "value": turn["content"]} for turn in chat]}
            for chat in chats
        ],
        "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in pairs],
        "text": [{"text": q + a} for q, a in pairs],
        "pairs": [{"prompt": q, "completion": a} for q, a in pairs],
        "long": [{"prompt": q, "completion": a * (1 + 20 * (i % 3))} for i, (q, a) in enumerate(pairs)],
        "long-alpaca": [
            {"instruction": q, "input": "", "output": a * (1 + 20 * (i % 3))} for i, (q, a) in enumerate(pairs)
        ],
        "twice": [{"prompt": q, "completion": a} for q, a in pairs for _ in range(2)],
        "tokens": [
            {
                "input_ids": list(range(5, 10 + i % 7)),
                "labels": [-100, *range(6, 10 + i % 7)],
                "attention_mask": [1] * (5 + i % 7),
            }
            for i in range(64)
        ],
        "held-out": [{"prompt": q, "completion": a} for q, a in sums(16, digits=3)],
        "held-out-alpaca": [{"instruction": q, "input": "", "output": a} for q, a in sums(16, digits=3)],
    }
    for name, lines in rows.items():
        write_jsonl(folder / f"{name}.jsonl", lines)
        (folder / f"{name}.json").write_text(json.dumps(lines))
