"""Random calls of otr_loss, and mistakes in them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from otr_plugin.config import OBJECTIVES, OTRConfig, SettingsError

Draw = Callable[..., Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
SIZES = {"float16": (2.0**-3, 1.0, 2.0**6, 2.0**13)}  # of the logits' steps; they overflow in the last one
LARGE_SIZES = (2.0**-3, 1.0, 2.0**-20, 2.0**4, 2.0**11, 2.0**100, 2.0**123)


@dataclass
class Call:
    """A right call of otr_loss. `arguments` makes its tensors from the seed."""

    positions: int
    width: int
    vocabulary: int
    seed: int
    dtype: str
    size: float
    steps: bool  # whether all logits are multiples of `size`, so that no sum of products is rounded
    labels: str
    layout: str
    bias: str | None
    uniforms: str
    token_weights: str | None
    settings: dict[str, Any]
    options: dict[str, Any]  # num_items, logit_scale, softcap
    needs_grad: tuple[str, ...]
    mode: str  # of autograd
    backward: str
    autocast: str | None
    poison: tuple[str, float] | None  # a value that is not finite, and where one is

    @property
    def config(self) -> OTRConfig:
        return OTRConfig(**self.settings)

    @property
    def gemm_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype if self.autocast is None or self.dtype == "float64" else self.autocast]

    def arguments(self) -> dict[str, Any]:
        """The arguments of otr_loss. Leaves that need a gradient require it."""
        g = torch.Generator().manual_seed(self.seed)
        n, d, v = self.positions, self.width, self.vocabulary
        side = 2.0 ** (math.log2(self.size) // 2)  # a power of two for each factor of the logits

        def values(*shape: int, scale: float) -> Tensor:
            if self.steps:
                return torch.randint(-2, 3, shape, generator=g).double() * scale
            return torch.randn(shape, generator=g, dtype=torch.float64) * scale

        tensors = {"hidden": values(n, d, scale=side), "weight": values(v, d, scale=self.size / side)}
        if self.bias is not None:
            tensors["bias"] = values(v, scale=self.size)
            if self.bias == "-inf":
                tensors["bias"][torch.rand(v, generator=g) < 0.4] = -math.inf
        if self.layout == "expanded" and n:
            tensors["hidden"] = tensors["hidden"][:1].expand(n, d)
        likely = (tensors["hidden"] @ tensors["weight"].t()).argmax(1) if n else torch.zeros(0).long()
        labels = torch.where(torch.rand(n, generator=g) < 0.5, likely, torch.randint(0, v, (n,), generator=g))
        match self.labels:
            case "half masked":
                labels[torch.rand(n, generator=g) < 0.5] = -100
            case "masked":
                labels[:] = -100
            case "one":
                labels[1:] = -100
            case "int32":
                labels = labels.int()
            case "expanded":
                labels = labels[:1].expand(n)
        if self.poison is not None:
            where, value = self.poison
            if where in tensors and tensors[where].numel():
                if not tensors[where].is_contiguous():
                    tensors[where] = tensors[where].clone()
                flat = tensors[where].view(-1)
                flat[int(torch.randint(0, len(flat), (), generator=g))] = value
        arguments: dict[str, Any] = {
            name: self._laid_out(t.to(DTYPES[self.dtype])).requires_grad_(name in self.needs_grad)
            for name, t in tensors.items()
        }
        arguments |= {"labels": labels, "config": self.config} | self.options
        if self.token_weights is not None:
            weights = torch.rand(n, generator=g) * 4
            weights[torch.rand(n, generator=g) < 0.3] = 0
            arguments["token_weights"] = weights.to(DTYPES[self.token_weights])
        if self.config.draws:
            numbers = torch.rand(n, self.config.samples, generator=g)
            match self.uniforms:
                case "float64":
                    arguments["uniforms"] = numbers.double()
                case "float32":
                    arguments["uniforms"] = numbers
                case "edges":
                    arguments["uniforms"] = torch.where(numbers < 0.5, 0.0, 1 - 2.0**-24)
                case "generator":
                    arguments["generator"] = torch.Generator().manual_seed(self.seed)
        return arguments

    def _laid_out(self, t: Tensor) -> Tensor:
        match self.layout:
            case "transposed":
                t = t.t().contiguous().t() if t.dim() == 2 else t
            case "strided":
                t = torch.stack([t, t * 3 + 1], -1)[..., 0]
            case "offset":
                t = torch.cat([t.new_ones(7), t.reshape(-1)])[7:].view(t.shape)
        return t.detach()


@dataclass
class Mistake:
    """What is changed in a right call, and what the error has to name."""

    argument: str
    name: str
    value: Callable[[dict[str, Any]], Any]

    def __repr__(self) -> str:
        return f"{self.argument}: {self.name}"


@dataclass
class Case:
    call: Call
    mistake: Mistake | None = field(default=None)


@st.composite
def settings(draw: Draw, kernel: str = "auto") -> dict[str, Any]:
    """Settings that OTRConfig accepts."""
    drawn: dict[str, Any] = {"objective": draw(st.sampled_from(["otr"] * 4 + list(OBJECTIVES[1:])))}
    if drawn["objective"] in ("power", "eaft"):
        drawn["alpha"] = draw(st.sampled_from([1.0, 0.7, 1e-6, 2.5, 100.0]) | st.floats(1e-6, 10))
    if draw(st.integers(0, 4)) == 0:
        drawn["min_label_prob"] = draw(st.sampled_from([0.0, 1e-30, 0.01, 0.4]))
        drawn["max_label_prob"] = draw(st.sampled_from([1.0, 0.5, 0.99]))
    if drawn["objective"] == "otr":
        drawn["estimator"] = draw(st.sampled_from(["sampled", "sampled", "exact"]))
        if drawn["estimator"] == "sampled":
            drawn["samples"] = draw(
                st.sampled_from([1, 2, 3, 8, 33, 64, 256]) if kernel == "auto" else st.integers(1, 40)
            )
        drawn["temperature"] = draw(st.sampled_from([1.3, 1.0, 0.01, 0.1, 3.0, 100.0]) | st.floats(0.01, 100))
        drawn["beta"] = draw(st.sampled_from([-0.1, 0.0, -100.0, 1 - 2**-53, 0.5]) | st.floats(-100, 0.999))
        drawn["top_k"] = draw(st.sampled_from([None, None, 1, 2, 5, 64, 10**6, 10**30]))
        drawn["top_p"] = draw(st.sampled_from([1.0, 1.0, 0.9, 0.5, 1e-9, 1 - 2**-53]) | st.floats(1e-300, 1))
        drawn["baseline"] = draw(st.sampled_from(["none", "none", "mean"]))
    drawn["nll_weight"] = draw(st.sampled_from([0.0, 0.0, 0.3, 100.0, 1e-30]))
    drawn["chunk_tokens"] = draw(st.sampled_from(["auto", 1, 2, 3, 7, 16, 10**6, 10**30]))
    drawn["kernel"] = draw(st.sampled_from(["auto", "torch"])) if kernel == "auto" else kernel
    try:
        OTRConfig(**drawn)
    except SettingsError:  # baseline: mean with one token
        drawn["baseline"] = "none"
    return drawn


@st.composite
def calls(draw: Draw, kernel: str = "auto") -> Call:
    """A right call. With the kernel triton it is small, because Triton's interpreter is slow."""
    small = kernel == "triton"
    drawn = draw(settings(kernel))
    config = OTRConfig(**drawn)
    dtype = draw(st.sampled_from(list(DTYPES)[: 3 if small else 4]))
    autocast = None if dtype == "float64" else draw(st.sampled_from([None, None, None, "bfloat16", "float16"]))
    low = autocast or dtype
    edges = [1, 2, 3, 63, 64, 65, 127, 128, 129]
    vocabulary = draw(st.sampled_from(edges + ([300] if small else [255, 257, 1000, 2049, 4096])) | st.integers(1, 300))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["num_items"] = draw(
            st.sampled_from([1, 7, 2.5, 10**6, 1e-6, torch.tensor(7), torch.tensor([3.5]), torch.tensor(5.0).double()])
        )
    # Draws from rounded logits are others, so with draws in a low precision no logit needs rounding.
    steps = draw(st.booleans()) or (config.has_rollout and low in ("bfloat16", "float16"))
    size = draw(st.sampled_from(SIZES.get(low, LARGE_SIZES)))
    if draw(st.integers(0, 2)) == 0:
        options["logit_scale"] = draw(st.sampled_from([0.5, -2.0, 0.25, 2.0**20, 2.0**-20, 2.0**-100, 0.3, -3.0]))
    if draw(st.integers(0, 2)) == 0:
        options["softcap"] = draw(st.sampled_from([30.0, 1.0, 50, 1e-3, 1e30, 1e6]))
    bias = draw(st.sampled_from([None, None, "normal", "-inf"]))
    needs = draw(st.sets(st.sampled_from(["hidden", "weight", "bias"])))
    poison = None
    if draw(st.integers(0, 5)) == 0:
        where = draw(st.sampled_from(["hidden", "weight", *(["bias"] if bias else [])]))
        poison = where, draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    width = draw(st.integers(1, 16))
    if poison is not None and low in ("bfloat16", "float16"):
        # PyTorch's products on a CPU read one number beyond a row of an odd length, times 0: NaN there spreads.
        width += width % 2
    return Call(
        positions=draw(st.integers(0, 4 if small else 20)),
        width=width,
        vocabulary=vocabulary,
        seed=draw(st.integers(0, 10**6)),
        dtype=dtype,
        size=size,
        steps=steps,
        labels=draw(st.sampled_from(["all", "half masked", "masked", "one", "int32", "expanded"])),
        layout=draw(st.sampled_from(["contiguous", "transposed", "strided", "offset", "expanded"])),
        bias=bias,
        uniforms=draw(st.sampled_from(["float32", "float64", "edges", "generator", "global"])),
        token_weights=draw(st.sampled_from([None, None, None, *DTYPES])),
        settings=drawn,
        options=options,
        needs_grad=tuple(sorted(name for name in needs if name != "bias" or bias)),
        mode=draw(st.sampled_from(["grad", "grad", "grad", "grad", "no_grad", "inference"])),
        backward=draw(st.sampled_from(["once", "twice", "scaled", "create_graph", "accumulated"])),
        autocast=autocast,
        poison=poison,
    )


def _other_dtype(t: Tensor) -> Tensor:
    return t.detach().to(torch.float16 if t.dtype == torch.float64 else torch.float64)


def _of_tensors(names: tuple[str, ...]) -> list[Mistake]:
    shared: dict[str, Callable[[Any], Any]] = {
        "a list": lambda t: t.tolist(),
        "on meta": lambda t: t.detach().to("meta"),
        "sparse": lambda t: t.detach().to_sparse(),
        "complex": lambda t: t.detach().to(torch.complex64),
        "bool": lambda t: t.detach().bool(),
        "uint8": lambda t: t.detach().nan_to_num(0, 0, 0).clamp(0, 9).to(torch.uint8),
        "another axis": lambda t: t.detach().unsqueeze(0),
        "a scalar": lambda t: t.detach().new_zeros(()),
        "one row more": lambda t: torch.cat([t.detach(), t.detach().new_zeros(1, *t.shape[1:])]),
    }
    return [
        Mistake(name, text, lambda arguments, name=name, change=change: change(arguments[name]))  # type: ignore[misc]
        for name in names
        for text, change in shared.items()
        # One row more of hidden or weight makes labels or bias wrong.
        if not (text == "one row more" and name in ("hidden", "weight"))
    ]


NUMBERS: dict[str, Any] = {
    "0": 0,
    "inf": math.inf,
    "nan": math.nan,
    "bool": True,
    "text": "1",
    "complex": 1j,
    "larger than float64": 10**400,
    "larger than float32": 1e39,
    "smaller than float32": 1e-46,
    "a list": [1.0],
}
MISTAKES = [
    *_of_tensors(("hidden", "weight", "labels", "bias", "uniforms", "token_weights")),
    Mistake("hidden", "nothing", lambda a: None),
    Mistake("weight", "no tokens", lambda a: a["weight"].detach()[:0]),
    Mistake("weight", "another width", lambda a: a["weight"].detach()[:, 1:]),
    Mistake("weight", "another dtype", lambda a: _other_dtype(a["weight"])),
    Mistake("bias", "another dtype", lambda a: _other_dtype(a["bias"])),
    Mistake("labels", "float", lambda a: a["labels"].float()),
    Mistake("labels", "int16", lambda a: a["labels"].to(torch.int16)),
    Mistake("labels", "the vocabulary's size", lambda a: torch.full_like(a["labels"], len(a["weight"]))),
    Mistake("labels", "-1", lambda a: torch.full_like(a["labels"], -1)),
    Mistake("labels", "2^31", lambda a: torch.full_like(a["labels"], 2**31, dtype=torch.int64)),
    Mistake("uniforms", "1", lambda a: torch.ones_like(a["uniforms"])),
    Mistake("uniforms", "negative", lambda a: a["uniforms"] - 1),
    Mistake("uniforms", "nan", lambda a: a["uniforms"] * math.nan),
    Mistake("uniforms", "bfloat16", lambda a: a["uniforms"].bfloat16()),
    *(
        Mistake(argument, name, lambda a, value=value: value)  # type: ignore[misc]
        for argument in ("num_items", "logit_scale", "softcap")
        for name, value in NUMBERS.items()
    ),
    Mistake("token_weights", "negative", lambda a: -1 - a["token_weights"]),
    Mistake("token_weights", "nan", lambda a: a["token_weights"] * math.nan),
    Mistake("num_items", "negative", lambda a: -3),
    Mistake("softcap", "negative", lambda a: -30.0),
    Mistake("num_items", "two numbers", lambda a: torch.ones(2)),
    Mistake("num_items", "tensor of 0", lambda a: torch.tensor(0)),
    Mistake("num_items", "tensor of nan", lambda a: torch.tensor(math.nan)),
    Mistake("num_items", "on meta", lambda a: torch.ones((), device="meta")),
    Mistake("num_items", "sparse", lambda a: torch.ones(1).to_sparse()),
    Mistake("num_items", "complex tensor", lambda a: torch.tensor(1j)),
    Mistake("num_items", "bool tensor", lambda a: torch.tensor(True)),
    Mistake("generator", "a number", lambda a: 5),
    Mistake("config", "a dict", lambda a: {"samples": 4}),
    Mistake("config", "the class", lambda a: OTRConfig),
]


def is_possible(mistake: Mistake, call: Call) -> bool:
    """Whether the mistake changes an argument that this call has, and is one in it."""
    name = mistake.argument
    if name == "bias" and call.bias is None:
        return False
    if name == "uniforms" and not (call.config.draws and call.uniforms in ("float32", "float64", "edges")):
        return False
    if name == "token_weights" and call.token_weights is None:
        return False
    if name == "generator" and not (call.config.draws and call.uniforms in ("generator", "global")):
        return False
    if mistake.name == "another dtype" and call.autocast is not None:
        return False
    needs_values = mistake.name in ("the vocabulary's size", "-1", "2^31", "1", "negative", "nan")
    if name == "token_weights" and needs_values:
        return call.positions > 0 and call.labels not in ("masked", "half masked")
    return not (needs_values and name in ("labels", "uniforms") and call.positions == 0)


@st.composite
def cases(draw: Draw, kernel: str = "auto") -> Case:
    """A right call; in one of four cases with a mistake."""
    call = draw(calls(kernel))
    if draw(st.integers(0, 3)):
        return Case(call)
    return Case(call, draw(st.sampled_from([m for m in MISTAKES if is_possible(m, call)])))


# Settings that OTRConfig has to refuse, by the key that its message has to name.
WRONG_SETTINGS: dict[str, list[Any]] = {
    "objective": ["ppo", None, 1, [], "OTR"],
    "estimator": ["monte carlo", None, True],
    "samples": [0, -1, 65537, 2.5, True, None, "many", math.nan, 10**400, [8], "1e400"],
    "temperature": [0, -1, 0.001, 1000, math.nan, math.inf, True, None, "warm", 10**400, 1j],
    "beta": [1, 1.0, 2, -1e38, math.nan, -math.inf, True, None, "x"],
    "alpha": [0, -1, 1e-7, 101, math.nan, True, None, "x"],
    "min_label_prob": [-0.1, 1, math.nan, None, True],
    "max_label_prob": [0, 1.1, math.inf, None, False],
    "nll_weight": [-1, 1e39, math.nan, math.inf, False, None, {}],
    "top_k": [0, -5, 1.5, True, math.inf, "few", 10**400],
    "top_p": [0, -0.5, 1.5, math.nan, True, None, "1.1"],
    "baseline": ["median", 3, True],
    "chunk_tokens": [0, -1, 1.5, True, None, "automatic", math.nan, 10**400],
    "kernel": ["cuda", None, 0],
    "sampels": [4],
}
wrong_settings = st.sampled_from([(key, value) for key, values in WRONG_SETTINGS.items() for value in values])
