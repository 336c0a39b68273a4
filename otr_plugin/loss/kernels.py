"""Which rows kernel works on a chunk: Triton where it runs, PyTorch elsewhere."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch

from otr_plugin.loss import rows_torch

Rows = Callable[..., None]  # rows_torch.rows, and what has its signature
GPUS = ("cuda", "xpu")  # ROCm's name in PyTorch is cuda too


def rows_kernel(wanted: str, device: torch.device, dtype: torch.dtype) -> Rows:
    """auto: Triton on a GPU that it runs on. torch, triton: that one; that it can run was checked before."""
    if wanted == "torch" or why_not_triton(device, dtype) is not None:
        return rows_torch.rows
    if wanted == "auto" and device.type not in GPUS:  # the interpreter is for tests
        return rows_torch.rows
    rows: Rows = importlib.import_module("otr_plugin.loss.rows_triton").rows
    return rows


def why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton cannot work on such logits, or None."""
    if dtype == torch.float64:
        return "its sums are float32, and hidden is float64"
    missing = _why_not_imported()
    if missing is not None:
        return missing
    if device.type not in GPUS and not (device.type == "cpu" and _interpreted()):
        return f"there is none for {device.type} (on a cpu, TRITON_INTERPRET=1 runs its interpreter, slowly)"
    return None


@functools.cache
def _why_not_imported() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    try:
        importlib.import_module("triton.language")
    except Exception as error:  # whatever a broken installation raises
        return f"the package triton cannot be imported: {error}"
    return None


def _interpreted() -> bool:
    return bool(importlib.import_module("triton").knobs.runtime.interpret)
