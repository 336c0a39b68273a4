"""Which rows kernel works on a chunk: Triton where it runs, PyTorch elsewhere."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch

from otr_plugin.config import OTRConfig
from otr_plugin.loss import torch_kernel
from otr_plugin.metrics import ROW_METRICS

ChunkKernel = Callable[..., None]  # the signature of torch_kernel.compute_chunk
GPUS = ("cuda", "xpu")  # ROCm's name in PyTorch is cuda too


def choose_kernel(wanted: str, device: torch.device, dtype: torch.dtype) -> ChunkKernel:
    """auto: Triton on a GPU that it runs on. torch, triton: that one; that it can run was checked before."""
    if wanted == "torch" or (wanted == "auto" and device.type not in GPUS):  # the interpreter is for tests
        return torch_kernel.compute_chunk
    why_not = why_not_triton(device, dtype)
    if why_not is None:
        return _triton_kernel()
    if dtype != torch.float64:
        _say_once(f"otr: on {device} PyTorch's kernel is used, which is slower, not Triton's: {why_not}")
    return torch_kernel.compute_chunk


def why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why Triton cannot work on such logits, or None. On each device it is tried once."""
    if dtype == torch.float64:
        return "its sums are float32, and hidden is float64"
    missing = _why_not_imported()
    if missing is not None:
        return missing
    if device.type not in GPUS and not (device.type == "cpu" and _interpreted()):
        return f"there is none for {device.type} (on a cpu, TRITON_INTERPRET=1 runs its interpreter, slowly)"
    return _why_not_on(device)


@functools.cache
def _why_not_on(device: torch.device) -> str | None:
    """A small chunk by both kernels: a compiler that is missing, or a GPU that it does wrong by, shows here."""
    g = torch.Generator().manual_seed(0)
    labels, uniforms = torch.arange(4, device=device), torch.rand(4, 64, generator=g).to(device)
    logits = [torch.randn(4, 320, generator=g).to(device)]
    logits.append(logits[0].clone())
    stats = torch.zeros(2, 4, len(ROW_METRICS), device=device)
    options: dict[str, Any] = {"vocabulary": 300, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    config = OTRConfig(samples=64)
    torch_kernel.compute_chunk(logits[0], labels, uniforms, stats[0], config, **options)
    try:
        _triton_kernel()(logits[1], labels, uniforms, stats[1], config, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a driver or a library raises
        return f"it was tried, and failed with {type(error).__name__}: {error}"
    off = max(float((b - a).abs().max()) for a, b in (stats, [one[:, :300] for one in logits]))
    return None if off < 1e-4 else f"it was tried, and what it computed is off by {off:.1e}"


def _triton_kernel() -> ChunkKernel:
    kernel: ChunkKernel = importlib.import_module("otr_plugin.loss.triton.launch").compute_chunk
    return kernel


@functools.cache
def _say_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


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
