"""Selects the kernel that computes a chunk: Triton's on GPUs where it works, PyTorch's elsewhere.

chunked.LinearLoss selects a kernel in every forward. checks.py refuses `kernel: triton` where Triton cannot run. Triton
is an optional dependency: nothing imports it before a GPU is used, or before `kernel: triton` is set.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch

from otr_plugin.config import OTRConfig, not_implemented
from otr_plugin.loss import torch_kernel
from otr_plugin.loss.vocabulary import Vocabulary, VocabularySlice
from otr_plugin.metrics import ROW_METRICS

ChunkKernel = Callable[..., None]  # the contract is the docstring of torch_kernel.compute_chunk
GPUS = ("cuda", "xpu")  # PyTorch calls ROCm devices cuda, too


def choose_kernel(
    name: Literal["auto", "torch", "triton"],
    device: torch.device,
    dtype: torch.dtype,
    tokens: Vocabulary | None = None,
) -> ChunkKernel:
    """The kernel for the setting `kernel`, for logits of this dtype, and of these tokens, on this device.

    Triton's kernel reads whole rows: for a slice of the vocabulary, PyTorch's kernel is selected.
    "auto" selects Triton's kernel on a GPU where it works; on other GPUs it warns once and selects PyTorch's. For
    "triton" the caller has made sure, by why_not_triton, that Triton works.
    """
    if isinstance(tokens, VocabularySlice):
        return functools.partial(torch_kernel.compute_chunk, tokens=tokens)
    match name:
        case "torch":
            return torch_kernel.compute_chunk
        case "triton":
            return _triton_kernel()
        case "auto":
            if device.type not in GPUS:
                return torch_kernel.compute_chunk
            reason = why_not_triton(device, dtype)
            if reason is None:
                return _triton_kernel()
            if dtype != torch.float64:  # No installation of Triton would help there.
                _warn_once(
                    f"otr: Triton cannot be used on {device}, so PyTorch's slower kernel computes the loss: {reason}"
                )
            return torch_kernel.compute_chunk
        case _:
            raise not_implemented(__name__, "kernel", name, ("auto", "torch", "triton"))


def kernel_name(name: Literal["auto", "torch", "triton"], device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that runs with this setting for logits of this dtype on this device: "torch" or "triton"."""
    if name == "triton":  # The kernel itself is not imported: where it cannot run, the first loss says why.
        return name
    return "torch" if choose_kernel(name, device, dtype) is torch_kernel.compute_chunk else "triton"


def why_not_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why Triton's kernel cannot be used for logits of this dtype on this device; None if it can."""
    if dtype == torch.float64:
        return "Triton's kernel computes in float32, and hidden is float64"
    reason = _why_triton_is_not_importable()
    if reason is not None:
        return reason
    if device.type not in GPUS and not (device.type == "cpu" and _is_interpreted()):
        return f"Triton has no compiler for {device.type} (on a cpu, TRITON_INTERPRET=1 runs its interpreter, slowly)"
    return _why_trial_fails(device)


@functools.cache
def _why_trial_fails(device: torch.device) -> str | None:
    """Run both kernels on a tiny chunk to detect compile failures and wrong results. Once for each device."""
    g = torch.Generator().manual_seed(0)
    labels, uniforms = torch.arange(4, device=device), torch.rand(4, 64, generator=g).to(device)
    logits = [torch.randn(4, 320, generator=g).to(device)]
    logits.append(logits[0].clone())
    row_metrics = torch.zeros(2, 4, len(ROW_METRICS), device=device)
    options: dict[str, Any] = {"vocabulary": 300, "logit_scale": 1.0, "softcap": None, "with_grad": True}
    config = OTRConfig(samples=64)
    torch_kernel.compute_chunk(logits[0], labels, uniforms, row_metrics[0], config, **options)
    try:
        _triton_kernel()(logits[1], labels, uniforms, row_metrics[1], config, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers, drivers and libraries raise errors of many types
        return f"on a test chunk, Triton's kernel failed with {type(error).__name__}: {error}"
    gradients = [one[:, :300] for one in logits]
    difference = max(float((b - a).abs().max()) for a, b in (row_metrics, gradients))
    if difference < 1e-4:
        return None
    return f"on a test chunk, the results of Triton's kernel differ from PyTorch's by up to {difference:.1e}"


def _triton_kernel() -> ChunkKernel:
    kernel: ChunkKernel = importlib.import_module("otr_plugin.loss.triton.launch").compute_chunk
    return kernel


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


@functools.cache
def _why_triton_is_not_importable() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    try:
        importlib.import_module("triton.language")
    except Exception as error:  # broken installations raise errors of many types
        return f"the package triton cannot be imported: {error}"
    return None


def _is_interpreted() -> bool:
    """Whether Triton's interpreter is on, which runs kernels on a CPU. It is meant for tests."""
    return bool(importlib.import_module("triton").knobs.runtime.interpret)
