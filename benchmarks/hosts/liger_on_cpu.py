"""Liger's kernels on a CPU, in Triton's interpreter: the set-up that all drivers share."""

from __future__ import annotations

import atexit
from typing import Any

from benchmarks.paths import ROOT

ENVIRONMENT = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
# A script that starts a host in its own process begins with this.
PREAMBLE = "from benchmarks.hosts.liger_on_cpu import patch_liger; patch_liger()\n"
NORM_RAN = "Liger's RMSNorm kernel ran."


def patch_liger() -> None:
    """Makes Liger's RMSNorm run in Triton's interpreter, and prints NORM_RAN when the process ends if it did run."""
    import triton.language as tl
    from liger_kernel.ops import rms_norm

    original, calls = rms_norm.rms_norm_forward, []

    def forward(*args: Any) -> Any:
        calls.append(1)
        return original(*args)

    rms_norm.rms_norm_forward = forward
    rms_norm.rsqrt = lambda x: 1 / tl.sqrt(x)  # Liger takes rsqrt from libdevice, which the interpreter lacks.
    atexit.register(lambda: print(NORM_RAN) if calls else None)
