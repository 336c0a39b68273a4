"""A recipe in miniature: the same recipe on a stand-in of the same family with random weights, on a CPU, for two steps.

Kept are the method, adapter, quantisation, packing, accumulation, schedule, seed and OTR. Replaced are the model, the
data and the settings in replaced.yaml.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gallery.recipes import model_of
from benchmarks.hosts.driver import make_model, sums, write_jsonl

# The architecture of each model in the gallery, and what its config has that others do not.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen3": ("qwen3", {"head_dim": 16}),
    "Qwen/Qwen2.5": ("qwen2", {"tie_word_embeddings": True}),
    "meta-llama/Llama-3": ("llama", {}),
    "google/gemma-2": ("gemma2", {"head_dim": 16, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0}),
    "allenai/OLMoE": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
}
CHAT_TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}</s>{% endfor %}"
REPLACED: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "replaced.yaml").read_text())


def miniature(host: str, path: Path, folder: Path) -> dict[str, Any]:
    """The recipe's settings with those of REPLACED, and stand-ins for model and data, which are made in `folder`."""
    recipe = yaml.safe_load(path.read_text())
    stand_in = make_stand_in(model_of(recipe), folder)
    rows = write_data(folder)
    own: dict[str, Any]
    if host == "axolotl":
        datasets = [{**each, "path": str(rows), "ds_type": "json"} for each in recipe["datasets"]]
        own = {"base_model": str(stand_in), "datasets": datasets, "dataset_prepared_path": str(folder / "prepared")}
    elif host == "llamafactory":
        own = {"model_name_or_path": str(stand_in), "dataset_dir": str(folder), "dataset": "stand-in"}
    elif host == "trl":
        datasets = [{"path": "json", "data_files": str(rows)}]
        own = {"model_name_or_path": str(stand_in), "datasets": datasets, "dataset_name": None}
    else:
        own = {"model": str(stand_in), "model_type": FAMILIES[family_of(model_of(recipe))][0], "template": "dummy"}
        own |= {"dataset": str(rows)}
    changed = recipe | REPLACED[host] | own | {"output_dir": str(folder / path.stem)}
    return {name: value for name, value in changed.items() if value is not None}


def family_of(model: str) -> str:
    return next(name for name in FAMILIES if model.startswith(name))


def make_stand_in(model: str, folder: Path) -> Path:
    """A random model of the same architecture; widths are multiples of 64, as bitsandbytes needs on a CPU."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = family_of(model)
    place = folder / family.replace("/", "-")
    if not place.exists():
        make_model(place)  # for its tokenizer
        (place / "chat_template.jinja").write_text(CHAT_TEMPLATE)
        kind, more = FAMILIES[family]
        sizes = json.loads((place / "config.json").read_text())
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
        tokens = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "max_position_embeddings")
        config = AutoConfig.for_model(kind, **{name: sizes[name] for name in (*names, *tokens)} | more)
        AutoModelForCausalLM.from_config(config).save_pretrained(place)
    return place


def write_data(folder: Path) -> Path:
    """Sums as conversations in each of the forms that the recipes' data have; LLaMA-Factory's as instructions."""
    path = folder / "stand-in.jsonl"
    pairs = sums(240)
    if not path.exists():
        forms = [
            (("role", "user", "assistant", "content"), "messages"),
            (("from", "human", "gpt", "value"), "conversations"),
        ]
        rows = []
        for question, answer in pairs:
            row = {}
            for (who, asks, answers, text), name in forms:
                row[name] = [{who: asks, text: question}, {who: answers, text: answer}]
            rows.append(row)
        write_jsonl(path, rows)
        write_jsonl(folder / "instructions.jsonl", ({"instruction": q, "input": "", "output": a} for q, a in pairs))
        (folder / "dataset_info.json").write_text(json.dumps({"stand-in": {"file_name": "instructions.jsonl"}}))
    return path
