"""The chunk kernel in Triton, for GPUs: fulfils the contract of torch_kernel.compute_chunk by launching two kernels.

dispatch.py imports this module where Triton works. threshold_kernel.py finds the logits below which no token can be
drawn, if top_k or top_p is set; loss_kernel.py computes the metrics and the gradient. Scratch memory is allocated for
each program, not for each row: there are a few programs per processor, and each processes one row after another.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from otr_plugin.config import OBJECTIVES, OTRConfig, not_implemented
from otr_plugin.loss.entropy import MOST_PROBABLE, log_largest_entropy
from otr_plugin.loss.sampling import top_p_target
from otr_plugin.loss.triton.loss_kernel import DFT, EAFT, EXACT, POWER, SAMPLED, SFT, loss_kernel
from otr_plugin.loss.triton.threshold_kernel import threshold_kernel
from otr_plugin.loss.tuned import architecture, settings_of
from otr_plugin.metrics import ROW_METRICS

TILE = 128  # tokens in a tile; a draw finds its tile before its token
# The layout of row_metrics, as constants of loss_kernel. The kernel has one parameter for each metric, so Triton
# refuses every launch if a metric is added to ROW_METRICS alone.
METRIC_COLUMNS = {f"{name.upper()}_COLUMN": column for column, name in enumerate(ROW_METRICS)}
METRIC_COLUMNS["METRICS"] = len(ROW_METRICS)


def compute_chunk(
    logits: Tensor,
    labels: Tensor,
    uniforms: Tensor | None,
    row_metrics: Tensor,
    config: OTRConfig,
    *,
    vocabulary: int,
    logit_scale: float,
    softcap: float | None,
    with_grad: bool,
    token_weights: Tensor | None = None,
) -> None:
    """torch_kernel.compute_chunk in Triton. Arithmetic is float32, so float64 logits are not supported.

    Rows of logits need no padding, and logits are unchanged without with_grad.
    """
    objective, mean_baseline = _objective(config), _has_mean_baseline(config)
    count, device = len(logits), logits.device
    settings = settings_of(architecture(device))
    programs = min(count, settings.programs * _processors(device))
    block = min(settings.block, max(TILE, triton.next_power_of_2(vocabulary)))
    tiles = triton.next_power_of_2(triton.cdiv(vocabulary, TILE))
    samples = config.samples if config.draws else 1
    cut = config.has_rollout and (config.top_k is not None or config.top_p < 1)
    common: dict[str, Any] = {
        "BLOCK": block,
        "SCALE": None if logit_scale == 1 else logit_scale,
        "CAP": softcap,
        "num_warps": settings.warps,
        "enable_fp_fusion": True,  # Triton's default; Triton 3.9 warns if it is left out
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
            top_p_target(config.top_p, torch.float32),
            BY_COUNT=config.top_k is not None,
            BY_MASS=config.top_p < 1,
            **common,
        )
    loss_kernel[(programs,)](
        logits,
        logits.stride(0),
        labels,
        row_metrics if uniforms is None else uniforms.sort(dim=1).values,  # without uniforms, any tensor will do
        thresholds,
        row_metrics if token_weights is None else token_weights,
        row_metrics,
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
        config.alpha,
        log_largest_entropy(vocabulary),
        config.min_label_prob,
        config.max_label_prob if config.max_label_prob < 1 else math.inf,  # rounding may make a probability exceed 1
        OBJECTIVE=objective,
        CUT=cut,
        MEAN_BASELINE=mean_baseline,
        WITH_GRAD=with_grad,
        HAS_THRESHOLDS=config.has_thresholds,
        HAS_WEIGHTS=token_weights is not None,
        MOST_PROBABLE=MOST_PROBABLE,
        TILES=tiles,
        TILE_STEPS=tiles.bit_length() - 1,
        SAMPLE_STEPS=samples.bit_length(),
        TILE=TILE,
        DRAWS=settings.draws,
        **METRIC_COLUMNS,
        **common,
    )


def _objective(config: OTRConfig) -> Any:
    """The value of loss_kernel's OBJECTIVE."""
    match config.objective:
        case "sft":
            return SFT
        case "dft":
            return DFT
        case "power":
            return POWER
        case "eaft":
            return EAFT
        case "otr":
            match config.estimator:
                case "sampled":
                    return SAMPLED
                case "exact":
                    return EXACT
                case _:
                    raise not_implemented(__name__, "estimator", config.estimator, ("sampled", "exact"))
        case _:
            raise not_implemented(__name__, "objective", config.objective, OBJECTIVES)


def _has_mean_baseline(config: OTRConfig) -> bool:
    match config.baseline:
        case "none":
            return False
        case "mean":
            return True
        case _:
            raise not_implemented(__name__, "baseline", config.baseline, ("none", "mean"))


def _processors(device: torch.device) -> int:
    """The number of the GPU's processors (NVIDIA: streaming multiprocessors)."""
    if device.type == "cpu":  # Triton's interpreter
        return 1
    properties = torch.get_device_module(device).get_device_properties(device)
    return int(getattr(properties, "multi_processor_count", 0) or properties.gpu_subslice_count)
