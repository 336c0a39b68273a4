"""OTRConfig: every setting of the loss, with its default, its bounds and its help text.

Recipes, command lines and the settings page of the documentation read them from here and repeat none.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def _finite_number(value: Any) -> Any:
    # Python counts True as 1, so without this check `samples: yes` in a recipe would mean one sample.
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    if isinstance(value, int | float) and not abs(value) <= MAXIMUM:
        raise ValueError("a finite number")
    return value


def _whole_number(value: Any) -> Any:
    # YAML reads 1e3 as text, and text is what command lines and variables hold.
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if math.isfinite(number) and number.is_integer() else value
    return value


def _none_in_words(value: Any) -> Any:
    # Command lines and variables can only spell None in words.
    return None if isinstance(value, str) and value.strip().casefold() in NONE else value


def _none_as_a_word(value: Any) -> Any:
    # Axolotl's command line turns the word none into None, and ms-swift turns None into text.
    return "none" if _none_in_words(value) is None else value


Objective = Literal["otr", "dft", "power", "eaft", "sft"]
OBJECTIVES = get_args(Objective)
NONE = ("", "none", "null", "~")
KINDS = {"int": "a whole number", "float": "a number"}  # in messages, by the name of pydantic's errors
MAXIMUM = 1e300  # well within float64, so that no later conversion overflows
Int = Annotated[int, BeforeValidator(_finite_number), BeforeValidator(_whole_number)]
Number = Annotated[float, BeforeValidator(_finite_number), Field(allow_inf_nan=False)]


class SettingsError(ValueError):
    """Wrong settings. `problems` has one sentence for each wrong key."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("OTRConfig: " + "\n           ".join(problems.values()))
        self.problems = dict(problems)


class OTRConfig(BaseModel):
    """The settings of the loss. Immutable.

    An unknown key, a value out of bounds, and a setting that would have no effect raise a SettingsError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: Objective = Field(
        "otr",
        description="The training objective. `otr`: one-token rollout. `dft`: dynamic fine-tuning, the NLL of each "
        "label weighted by the label's probability p. `power`: (1 - p^alpha) / alpha, also called generalized cross "
        "entropy. `eaft`: entropy-adaptive fine-tuning, the NLL weighted by the entropy of the 20 most probable tokens "
        "to the power of alpha. `sft`: the plain NLL.",
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
        ge=-100,
        lt=1,
        description="The reward of a drawn token that is not the label; the label's reward is 1. Reviews of the paper "
        "report a slightly negative value; its exact value could not be confirmed.",
    )
    alpha: Number = Field(
        1.0,
        ge=1e-6,
        le=100,
        description="The exponent of `objective: power` and `objective: eaft`. The smaller it is, the more they "
        "resemble `objective: sft`. Both papers use 1; `power` then has the gradient of `dft`.",
    )
    nll_weight: Number = Field(
        0.0,
        ge=0,
        le=100,
        description="The weight of a plain NLL term that is added to the objective. A positive weight lets the model "
        "learn labels that are too improbable to be drawn.",
    )
    min_label_prob: Number = Field(
        0.0,
        ge=0,
        lt=1,
        description="Positions at which the label has a smaller probability train nothing, `nll_weight` included.",
    )
    max_label_prob: Number = Field(
        1.0,
        gt=0,
        le=1,
        description="Positions at which the label has a larger probability train nothing, `nll_weight` included.",
    )
    top_k: Annotated[Int | None, BeforeValidator(_none_in_words)] = Field(
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
    baseline: Annotated[Literal["none", "mean"], BeforeValidator(_none_as_a_word)] = Field(
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
            raise SettingsError(_explain(error)) from None
        if problems := self._without_effect() | self._without_gradient():
            raise SettingsError(problems)

    def _without_effect(self) -> dict[str, str]:
        """A problem for each setting that is not at its default and does not change the loss."""
        by_objective = f"objective: {self.objective}"
        unused = dict.fromkeys(() if self.has_rollout else ROLLOUT_SETTINGS, by_objective)
        if self.has_rollout and not self.draws:
            unused["samples"] = f"estimator: {self.estimator}"
        if not self.has_exponent:
            unused["alpha"] = by_objective
        return {
            name: f"{name}: {getattr(self, name)} has no effect with `{by}`: remove it"
            for name, by in unused.items()
            if getattr(self, name) != type(self).model_fields[name].default
        }

    def _without_gradient(self) -> dict[str, str]:
        """A problem if no position can train, because of what the settings exclude together.

        `baseline: mean` leaves every reward at zero where one token can be drawn, since its reward is its own mean.
        """
        if self.min_label_prob >= self.max_label_prob:
            problem = f"min_label_prob should be less than max_label_prob, got {self.min_label_prob} and "
            return {"min_label_prob": f"{problem}{self.max_label_prob}: no position would be trained"}
        if self.baseline != "mean":
            return {}
        for name, value, minimum in (
            ("samples", self.samples if self.draws else None, 2),
            ("top_k", self.top_k, 2),
            ("top_p", self.top_p, 0.1),
        ):
            if value is not None and value < minimum:
                problem = (
                    f"{name} should be at least {minimum} with `baseline: mean`, got {value}: where only one token "
                )
                return {name: problem + "can be drawn, its reward is the baseline, and the gradient is zero"}
        return {}

    @property
    def has_rollout(self) -> bool:
        """Whether the objective rewards drawn tokens, so that metrics.DRAW_METRICS exist."""
        match self.objective:
            case "otr":
                return True
            case "dft" | "power" | "eaft" | "sft":
                return False
            case _:
                raise not_implemented(__name__, "objective", self.objective, OBJECTIVES)

    @property
    def has_exponent(self) -> bool:
        """Whether the objective has the exponent alpha."""
        return self.objective in ("power", "eaft")

    @property
    def has_thresholds(self) -> bool:
        """Whether the label's probability decides which positions are trained."""
        return self.min_label_prob > 0 or self.max_label_prob < 1

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


# The settings that only the objective otr has.
ROLLOUT_SETTINGS = ("estimator", "samples", "temperature", "beta", "top_k", "top_p", "baseline")


def not_implemented(module: str, setting: str, value: NoReturn, implemented: Sequence[str]) -> NotImplementedError:
    """The error to raise where `module` has no branch for the value of a setting.

    The type of `value` lets mypy report every such place when a value is added to OTRConfig: the call is an error
    unless the branches before it cover all values that the field allows.
    """
    names = ", ".join(repr(name) for name in implemented)
    return NotImplementedError(f"{module}: {setting} {value!r} is not implemented; implemented are {names}")


def _explain(error: ValidationError) -> dict[str, str]:
    """For each wrong key one sentence with the value found and the allowed values."""
    problems: dict[str, tuple[list[str], Any]] = {}
    for item in error.errors(include_url=False):
        key = str(item["loc"][0])
        kind = item["type"].split("_")[0]  # such as int_parsing or float_type
        if item["type"] == "extra_forbidden":
            allowed = "unknown"
        elif kind in KINDS:
            allowed = KINDS[kind]
        else:
            allowed = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        messages, _ = problems.setdefault(key, ([], item["input"]))
        if allowed not in messages:
            messages.append(allowed)
    return {
        key: unknown_key(key)
        if messages == ["unknown"]
        else f"{key} should be {' or '.join(messages)}, got {_short(value)}"
        for key, (messages, value) in problems.items()
    }


def unknown_key(key: str) -> str:
    """The sentence for a key that is no setting."""
    near = difflib.get_close_matches(key, OTRConfig.model_fields, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    foreign = [character for character in key if not character.isascii()]
    if foreign:  # it may look like the right key
        hint += f"It contains {unicodedata.name(foreign[0], repr(foreign[0]))}; "
    return f"unknown key {key!r}: {hint}the keys are {', '.join(OTRConfig.model_fields)}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."
