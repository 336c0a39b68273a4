"""OTRConfig: the one home of every setting's default, bounds and help text."""

from __future__ import annotations

import difflib
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def _finite_number(value: Any) -> Any:
    # Python counts True as 1, so `samples: yes` in a recipe would quietly mean one sample.
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    return value


Int = Annotated[int, BeforeValidator(_finite_number)]
Number = Annotated[float, BeforeValidator(_finite_number), Field(allow_inf_nan=False)]


class OTRConfig(BaseModel):
    """Every setting of the loss. Frozen; an unknown key or a value out of bounds is a ValueError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["otr", "dft", "sft"] = Field(
        "otr",
        description="What is minimised: one-token rollout, dynamic fine-tuning (the NLL weighted by "
        "the label's own probability), or the plain NLL.",
    )
    estimator: Literal["sampled", "exact"] = Field(
        "sampled",
        description="How objective otr is estimated: from K draws, as in the paper, or as their "
        "expectation over the whole vocabulary.",
    )
    samples: Int = Field(
        256,
        ge=1,
        le=65536,
        description="K, the draws at every position. 256 is the value reviews of the paper report.",
    )
    temperature: Number = Field(
        1.3,
        ge=0.01,
        le=100,
        description="kappa, the temperature of the draws; log-probabilities stay at temperature 1. "
        "1.3 is the value reviews of the paper report.",
    )
    beta: Number = Field(
        -0.1,
        lt=1,
        description="The reward of a drawn token that is not the label (the label's is 1). The paper "
        "is reported to use a slightly negative one; its exact value could not be confirmed.",
    )
    nll_weight: Number = Field(
        0.0,
        ge=0,
        description="Adds this much of the plain NLL, so that labels which are never drawn can be learnt too.",
    )
    top_k: Int | None = Field(
        None,
        ge=1,
        description="Draw only among the k most probable tokens (ties with the k-th are kept).",
    )
    top_p: Number = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw only among the fewest most probable tokens whose probability at this "
        "temperature sums to top_p.",
    )
    baseline: Literal["none", "mean"] = Field(
        "none",
        description="What is subtracted from every reward: nothing, as in the paper, or the mean "
        "reward at that position.",
    )
    chunk_tokens: Literal["auto"] | Annotated[Int, Field(ge=1)] = Field(
        "auto", description="How many positions' logits exist at a time."
    )
    kernel: Literal["auto", "torch", "triton"] = Field(
        "auto",
        description="What computes a chunk's loss and gradient from its logits; auto: Triton on a GPU that it "
        "runs on, PyTorch elsewhere.",
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ValueError(_explain(error)) from None

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, so that uniforms are needed."""
        return self.objective == "otr" and self.estimator == "sampled"


def _explain(error: ValidationError) -> str:
    """One line a key: what came, and what is allowed."""
    problems: dict[str, tuple[list[str], Any]] = {}
    for item in error.errors(include_url=False):
        key = str(item["loc"][0])
        if item["type"] == "extra_forbidden":
            allowed = "unknown"
        else:
            allowed = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        messages, _ = problems.setdefault(key, ([], item["input"]))
        if allowed not in messages:
            messages.append(allowed)
    lines = []
    for key, (messages, value) in problems.items():
        if messages == ["unknown"]:
            near = difflib.get_close_matches(key, OTRConfig.model_fields, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            lines.append(f"unknown key {key!r}: {hint}the keys are {', '.join(OTRConfig.model_fields)}")
        else:
            lines.append(f"{key} should be {' or '.join(messages)}, got {value!r}")
    return "OTRConfig: " + "\n           ".join(lines)
