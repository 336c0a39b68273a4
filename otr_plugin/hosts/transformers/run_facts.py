"""What a trainer holds of its run, for run_record.py: model, tokenizer, data, hardware, memory and results."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from typing import Any

import torch

from otr_plugin.config import OTRConfig

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]


def at_start(config: OTRConfig, seed_of_draws: int, args: Any, state: Any, given: dict[str, Any]) -> dict[str, Any]:
    """`given` is what transformers passes to a callback: the model, the processing_class, the train_dataloader."""
    model, tokenizer = given.get("model"), given.get("processing_class") or given.get("tokenizer")
    data = getattr(given.get("train_dataloader"), "dataset", None)
    data = getattr(data, "dataset", data)  # ms-swift's, which tokenises when a row is needed
    return {
        "otr": config.model_dump(),
        "seeds": {"seed": args.seed, "data_seed": args.data_seed, "draws": seed_of_draws},
        "resumed_at_step": state.global_step,
        "steps": state.max_steps,
        "processes": args.world_size,
        "hardware": _hardware(args),
        "model": _model(model),
        "tokenizer": _tokenizer(tokenizer),
        "data": _data(data),
    }


def at_end(state: Any) -> dict[str, Any]:
    log = state.log_history
    return {
        "steps_done": state.global_step,
        "epochs_done": state.epoch,
        "tokens_seen": getattr(state, "num_input_tokens_seen", None) or None,
        "peak_memory": _peak_memory(),
        "last_train_log": next((each for each in reversed(log) if "loss" in each), None),
        "last_eval_log": next((each for each in reversed(log) if "eval_loss" in each), None),
    }


def _hardware(args: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"device": str(args.device), "processor": platform.machine()}
    found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if args.device.type == "cuda":
        properties = torch.cuda.get_device_properties(args.device)
        found |= {"accelerator": properties.name, "accelerator_memory": properties.total_memory}
        found["cuda"] = torch.version.cuda or torch.version.hip
    return found


def _peak_memory() -> dict[str, int]:
    """In bytes, of this process; that of the device by PyTorch's own count."""
    found = {}
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        found["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {
            "device_allocated": torch.cuda.max_memory_allocated(),
            "device_reserved": torch.cuda.max_memory_reserved(),
        }
    return found


def _model(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    counts = [(getattr(each, "ds_numel", each.numel()), each.requires_grad) for each in model.parameters()]
    return {
        "class": type(getattr(model, "base_model", model)).__name__ if config is None else config.architectures,
        "name": getattr(config, "_name_or_path", None),
        "revision": getattr(config, "_commit_hash", None),
        "parameters": sum(count for count, _ in counts),
        "trained_parameters": sum(count for count, is_trained in counts if is_trained),
    }


def _tokenizer(tokenizer: Any) -> dict[str, Any] | None:
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # that of a processor
    if tokenizer is None:
        return None
    template = getattr(tokenizer, "chat_template", None)
    return {
        "name": getattr(tokenizer, "name_or_path", None),
        "tokens": len(tokenizer),
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None,
    }


def _data(data: Any) -> dict[str, Any]:
    """`fingerprint` is that of the library datasets: of the rows and of all that was done to them."""
    sources = getattr(getattr(data, "info", None), "download_checksums", None) or {}
    return {
        "rows": len(data) if hasattr(data, "__len__") else None,
        "fingerprint": getattr(data, "_fingerprint", None),
        "sources": [str(name) for name in sources][:100],
    }
