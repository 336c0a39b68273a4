"""TrainingPlan: what of a recipe decides how much memory a step takes, in the same words for every host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from otr_plugin.config import OTRConfig

Dtype = Literal["bfloat16", "float16", "float32"]
Attention = Literal["flash", "sdpa", "eager"]
Checkpointing = Literal["none", "reentrant", "not reentrant"]


@dataclass(frozen=True)
class Adapter:
    """LoRA, in PEFT's words."""

    r: int
    targets: tuple[str, ...] | str | None  # names, "all-linear", or PEFT's own for the model
    dropout: float = 0.0
    modules_to_save: tuple[str, ...] = ()
    dora: bool = False
    dtype: Dtype | None = "float32"  # PEFT's default, also beside weights of 16 bits; None: that of the weights


@dataclass(frozen=True)
class FourBit:
    """bitsandbytes' 4-bit weights of all linear layers but the head."""

    kind: Literal["nf4", "fp4"] = "nf4"
    double: bool = True  # whether the scales are quantised, too


@dataclass(frozen=True)
class Liger:
    """Which of Liger's kernels are on."""

    rope: bool = False
    rms_norm: bool = False
    swiglu: bool = False  # or GeGLU, by the model
    fused_loss: bool = False


@dataclass(frozen=True)
class TrainingPlan:
    """One process's share of a training step."""

    host: str
    model: str
    sequence: int  # tokens of a row; 0: as many as the model has positions
    rows: int  # of a micro-batch
    is_packed: bool = False
    accumulation: int = 1
    weights: Dtype | None = "bfloat16"  # None: the dtype in the model's config
    autocast: Dtype | Literal["by weights"] | None = "bfloat16"  # "by weights": float16, unless they are bfloat16
    adapter: Adapter | None = None
    four_bit: FourBit | None = None
    checkpointing: Checkpointing = "none"
    is_offloaded: bool = False  # what checkpointing keeps, to the CPU
    attention: Attention = "sdpa"
    optimiser: str = "adamw_torch_fused"  # in the Trainer's words
    liger: Liger = Liger()
    otr: OTRConfig | None = None
    float32_modules: tuple[str, ...] = ()  # parts of names of modules that the host converts to float32
    trained_in_float32: bool = False  # whether the host converts what is trained to float32
    trained: tuple[str, ...] = ()  # regular expressions for names of parameters: they are trained, if not all are
    new_tokens: int = 0
    not_counted: tuple[str, ...] = ()  # what the recipe also has, and why it is not in the figure


def settled(plan: TrainingPlan, config: Any) -> TrainingPlan:
    """The plan with what the recipe leaves to the config of the model."""
    text = config.get_text_config()
    dtype = str(getattr(text, "dtype", None) or getattr(config, "dtype", None) or "bfloat16").removeprefix("torch.")
    weights: Any = plan.weights or dtype
    autocast: Any = plan.autocast
    if autocast == "by weights":
        autocast = "bfloat16" if weights == "bfloat16" else "float16"
    return replace(plan, weights=weights, autocast=autocast, sequence=plan.sequence or text.max_position_embeddings)
