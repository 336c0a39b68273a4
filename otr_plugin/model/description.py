"""The settings that have an effect, in the words of the host's log."""

from __future__ import annotations

from otr_plugin.config import OBJECTIVES, OTRConfig, not_implemented


def describe_objective(config: OTRConfig) -> str:
    match config.objective:
        case "otr":
            rest = f"temperature {config.temperature}, beta {config.beta}, baseline {config.baseline}"
            rest += "" if config.top_k is None else f", top_k {config.top_k}"
            rest += "" if config.top_p == 1 else f", top_p {config.top_p}"
            text = f"objective otr ({_describe_estimator(config)}, {rest})"
        case "power" | "eaft":
            text = f"objective {config.objective} (alpha {config.alpha})"
        case "dft" | "sft":
            text = f"objective {config.objective}"
        case _:
            raise not_implemented(__name__, "objective", config.objective, OBJECTIVES)
    if config.has_thresholds:
        text += f", where {config.min_label_prob} <= p <= {config.max_label_prob} for the label's probability p"
    return text + (f" + {config.nll_weight} NLL" if config.nll_weight else "")


def _describe_estimator(config: OTRConfig) -> str:
    match config.estimator:
        case "sampled":
            return f"{config.samples} samples"
        case "exact":
            return "exact"
        case _:
            raise not_implemented(__name__, "estimator", config.estimator, ("sampled", "exact"))
