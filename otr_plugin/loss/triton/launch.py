"""One chunk of logits -> objective, metrics, and the gradient in place: torch_kernel's function, one program a row.

This launches the kernels. Memory beyond the logits is a program's, not a row's: programs take rows in turn.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from otr_plugin.config import OTRConfig
from otr_plugin.loss.reference import within_rounding
from otr_plugin.loss.triton.loss_kernel import DFT, EXACT, SAMPLED, SFT, loss_kernel
from otr_plugin.loss.triton.threshold_kernel import threshold_kernel

TILE = 128
BLOCK = 2048  # logits at a time; whole tiles. With 8 warps, 80 registers a thread: three programs on a processor
DRAWS = 32  # draws at a time
WARPS = 8
PROGRAMS_PER_PROCESSOR = 3


def compute_chunk(
    logits: Tensor,
    labels: Tensor,
    uniforms: Tensor | None,
    stats: Tensor,
    config: OTRConfig,
    *,
    vocabulary: int,
    logit_scale: float,
    softcap: float | None,
    with_grad: bool,
) -> None:
    """Fill stats [C, metrics.NAMES], and turn logits [C, >= V] into their gradient (if with_grad).

    Row by row a pure function of logits, label and uniforms. A label outside the vocabulary gives NaN.
    """
    count, device = len(logits), logits.device
    programs = min(count, PROGRAMS_PER_PROCESSOR * _processors(device))
    block = min(BLOCK, max(TILE, triton.next_power_of_2(vocabulary)))
    tiles = triton.next_power_of_2(triton.cdiv(vocabulary, TILE))
    samples = config.samples if config.draws else 1
    cut = config.objective == "otr" and (config.top_k is not None or config.top_p < 1)
    common = {
        "BLOCK": block,
        "SCALE": None if logit_scale == 1 else logit_scale,
        "CAP": softcap,
        "num_warps": WARPS,
        "enable_fp_fusion": True,  # the default of old; said, as Triton 3.9 warns where it is not
    }
    thresholds = torch.empty(count if cut else 0, device=device)
    if cut:
        threshold_kernel[(programs,)](
            logits,
            logits.stride(0),
            thresholds,
            count,
            vocabulary,
            1 / config.temperature,
            float(config.top_k or 0),
            within_rounding(config.top_p, torch.float32),
            BY_COUNT=config.top_k is not None,
            BY_MASS=config.top_p < 1,
            **common,
        )
    objective = {"sft": SFT, "dft": DFT}.get(config.objective, SAMPLED if config.draws else EXACT)
    loss_kernel[(programs,)](
        logits,
        logits.stride(0),
        labels,
        stats if uniforms is None else uniforms.sort(dim=1).values,  # stats: not read as that
        thresholds,
        stats,
        torch.empty(programs, tiles, dtype=torch.float64, device=device),
        torch.empty(programs, triton.cdiv(vocabulary, block), device=device),
        torch.empty(programs, samples, dtype=torch.int32, device=device),
        torch.empty(programs, samples, device=device),
        count,
        vocabulary,
        samples,
        1 / config.temperature,
        config.beta,
        config.nll_weight,
        float(config.samples),
        OBJECTIVE=objective,
        CUT=cut,
        MEAN_BASELINE=config.baseline == "mean",
        WITH_GRAD=with_grad,
        TILES=tiles,
        TILE_STEPS=tiles.bit_length() - 1,
        SAMPLE_STEPS=samples.bit_length(),
        TILE=TILE,
        DRAWS=DRAWS,
        **common,
    )


def _processors(device: torch.device) -> int:
    if device.type == "cpu":  # Triton's interpreter
        return 1
    properties = torch.get_device_module(device).get_device_properties(device)
    return int(getattr(properties, "multi_processor_count", 0) or properties.gpu_subslice_count)
