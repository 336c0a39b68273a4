"""OTRConfig: every setting of the loss, with its default, its bounds and its help text.

Recipes, command lines and the settings page of the documentation read them from here and repeat none.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def _finite_number(value: Any) -> Any:
    # Python counts True as 1, so without this check `samples: yes` in a recipe would mean one sample.
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a finite number")
    return value


Int = Annotated[int, BeforeValidator(_finite_number)]
Number = Annotated[float, BeforeValidator(_finite_number), Field(allow_inf_nan=False)]


class OTRConfig(BaseModel):
    """The settings of the loss. Immutable. An unknown key or a value out of bounds raises a ValueError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Literal["otr", "dft", "sft"] = Field(
        "otr",
        description="The training objective. `otr`: one-token rollout. `dft`: dynamic fine-tuning, the NLL of each "
        "label weighted by the label's probability. `sft`: the plain NLL.",
    )
    estimator: Literal["sampled", "exact"] = Field(
        "sampled",
        description="How `objective: otr` is computed. `sampled` draws K tokens at every position, as the paper does; "
        "`exact` takes the expectation over the whole vocabulary instead.",
    )
    samples: Int = Field(
        256,
        ge=1,
        le=65536,
        description="K, the number of tokens drawn at every position. Reviews of the paper report 256.",
    )
    temperature: Number = Field(
        1.3,
        ge=0.01,
        le=100,
        description="kappa, the temperature of the distribution from which tokens are drawn; the log-probabilities in "
        "the loss stay at temperature 1. Reviews of the paper report 1.3.",
    )
    beta: Number = Field(
        -0.1,
        lt=1,
        description="The reward of a drawn token that is not the label; the label's reward is 1. Reviews of the paper "
        "report a slightly negative value; its exact value could not be confirmed.",
    )
    nll_weight: Number = Field(
        0.0,
        ge=0,
        description="The weight of a plain NLL term that is added to the objective. A positive weight lets the model "
        "learn labels that are too improbable to be drawn.",
    )
    top_k: Int | None = Field(
        None,
        ge=1,
        description="Draw only among the k most probable tokens, and tokens tied with the k-th. "
        "Without a value, every token can be drawn.",
    )
    top_p: Number = Field(
        1.0,
        gt=0,
        le=1,
        description="Draw only among the smallest set of most probable tokens whose total probability, at the "
        "temperature of the draws, reaches this value. With 1, every token can be drawn.",
    )
    baseline: Literal["none", "mean"] = Field(
        "none",
        description="What is subtracted from every reward. `none`: nothing, as in the paper. `mean`: the mean reward "
        "at the same position.",
    )
    chunk_tokens: Literal["auto"] | Annotated[Int, Field(ge=1)] = Field(
        "auto",
        description="The number of positions in a chunk; the logits of one chunk at a time are in memory. `auto` "
        "chooses it to fit the device's memory.",
    )
    kernel: Literal["auto", "torch", "triton"] = Field(
        "auto",
        description="The implementation that computes a chunk's loss and gradient from its logits. `auto`: Triton on "
        "a GPU where it works, PyTorch elsewhere.",
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ValueError(_explain(error)) from None

    @property
    def has_rollout(self) -> bool:
        """Whether the objective rewards drawn tokens, so that metrics.DRAW_METRICS exist."""
        match self.objective:
            case "otr":
                return True
            case "dft" | "sft":
                return False
            case _:
                raise not_implemented(__name__, "objective", self.objective, ("otr", "dft", "sft"))

    @property
    def draws(self) -> bool:
        """Whether tokens are really drawn, so that the loss needs uniforms."""
        if not self.has_rollout:
            return False
        match self.estimator:
            case "sampled":
                return True
            case "exact":
                return False
            case _:
                raise not_implemented(__name__, "estimator", self.estimator, ("sampled", "exact"))


def not_implemented(module: str, setting: str, value: NoReturn, implemented: Sequence[str]) -> NotImplementedError:
    """The error to raise where `module` has no branch for the value of a setting.

    The type of `value` lets mypy report every such place when a value is added to OTRConfig: the call is an error
    unless the branches before it cover all values that the field allows.
    """
    names = ", ".join(repr(name) for name in implemented)
    return NotImplementedError(f"{module}: {setting} {value!r} is not implemented; implemented are {names}")


def _explain(error: ValidationError) -> str:
    """The error's message: for each wrong key one line with the allowed values and the value found."""
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
