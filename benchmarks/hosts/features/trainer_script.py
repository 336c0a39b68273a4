"""A script with transformers' Trainer, as a user writes it. Keys of a recipe stand for its lines of Python.

`model`: the folder. `from_pretrained`, `lora`: arguments of that method and of PEFT's configuration. `collator`: how
batches are padded. `data`: the file of the rows. `eval_split`: how many of them are evaluated. `python`: which of the
special pieces of code runs.
Everything else is a TrainingArgument.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_config, get_peft_model, prepare_model_for_kbit_training
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    DataCollatorWithFlattening,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from benchmarks.hosts.features.host import Log
from otr_plugin import OTRConfig, attach


def train(recipe: dict[str, Any], folder: Path) -> Log:
    own = ["model", "from_pretrained", "lora", "collator", "data", "eval_split", "python", "otr"]
    own.append("resume_from_checkpoint")
    script = {name: recipe.pop(name, None) for name in own}
    python, path = script["python"], folder / (script["model"] or "model")
    args = TrainingArguments(**recipe)
    torch.manual_seed(args.seed)
    model, tokenizer = _model(path, script["from_pretrained"] or {}, python), AutoTokenizer.from_pretrained(path)
    if script["lora"]:
        if getattr(model, "is_quantized", False):
            model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        model = get_peft_model(model, get_peft_config({"peft_type": "LORA", "task_type": "CAUSAL_LM"} | script["lora"]))
    if script["otr"]:
        attach(model, OTRConfig(**script["otr"]), seed=args.seed)

    rows = _rows(folder / (script["data"] or "pairs.jsonl"), tokenizer)
    trainer = (Weighted if python == "a subclass with its own compute_loss" else Trainer)(
        model,
        args,
        data_collator=_collator(script["collator"], tokenizer),
        train_dataset=_stream(rows) if python == "IterableDataset" else rows,
        eval_dataset=_held_out(rows, script["eval_split"], python),
        processing_class=tokenizer,
        callbacks={"callback": [Changes()], "EarlyStoppingCallback": [EarlyStoppingCallback(1)]}.get(python),
        compute_metrics=Accuracy() if python == "compute_metrics" else None,
        compute_loss_func=_loss_of_logits if python == "compute_loss_func" else None,
    )
    trainer.train(resume_from_checkpoint=script["resume_from_checkpoint"])
    log: Log = trainer.state.log_history
    return log


def _model(path: Path, loading: dict[str, Any], python: str | None) -> Any:
    if "quantization_config" in loading:
        loading["quantization_config"] = BitsAndBytesConfig(**loading["quantization_config"])
    if python == "from_config":
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    model = AutoModelForCausalLM.from_pretrained(path, **loading)
    if python == "freeze":
        model.model.layers[0].requires_grad_(False)
        model.model.embed_tokens.requires_grad_(False)
    if python == "resize_token_embeddings":
        model.resize_token_embeddings(96)
    return model


def _rows(data: Path, tokenizer: Any) -> list[dict[str, Any]]:
    """Prompts with -100 as labels, and completions; or rows of tokens as they are."""
    rows = []
    for line in data.read_text().splitlines():
        row = json.loads(line)
        if "input_ids" in row:
            rows.append(row)
            continue
        prompt, answer = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in row.values())
        answer = [*answer, tokenizer.eos_token_id]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def _stream(rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows).to_iterable_dataset()


def _held_out(rows: list[dict[str, Any]], count: int | None, python: str | None) -> Any:
    if python == "two evaluation sets":
        return {"a": rows[:8], "b": rows[8:16]}
    return rows[:count] if count else None


def _collator(name: str | None, tokenizer: Any) -> Any:
    if name == "DataCollatorWithFlattening":
        return DataCollatorWithFlattening()
    if name == "padded on the left":
        tokenizer.padding_side = "left"
    return DataCollatorForSeq2Seq(tokenizer, pad_to_multiple_of=16 if name == "padded to 16" else None)


def _loss_of_logits(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    return cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


class Weighted(Trainer):
    """Computes the loss itself."""

    def compute_loss(self, model: Any, inputs: Any, **_: Any) -> Any:
        labels = inputs.pop("labels")
        return _loss_of_logits(model(**inputs), labels)


class Changes(TrainerCallback):
    """Halves the learning rate at every step, and ends training after three."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for group in kwargs["optimizer"].param_groups:
            group["lr"] *= 0.5

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step == 3


class Accuracy:
    """compute_metrics, for the whole evaluation (arrays) or batch by batch (tensors)."""

    def __init__(self) -> None:
        self.hits = self.count = 0

    def __call__(self, prediction: Any, compute_result: bool = True) -> dict[str, float]:
        logits, labels = (torch.as_tensor(part) for part in (prediction.predictions, prediction.label_ids))
        trained = labels[:, 1:] != -100
        self.hits += int(((logits[:, :-1].argmax(-1) == labels[:, 1:]) & trained).sum())
        self.count += int(trained.sum())
        return {"accuracy": self.hits / self.count} if compute_result else {}
