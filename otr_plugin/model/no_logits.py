"""What an output holds in place of logits that do not exist: an object that raises wherever it is read.

The model's own code between its head and its loss_function runs on a placeholder of numbers, which it may scale, slice
or convert. Outside the model those numbers would be mistaken for logits: replace_logits takes them out of outputs.

The object is no tensor: what traverses an output (DistributedDataParallel, FSDP, accelerate's conversion to float32,
Trainer) passes other objects on untouched. It looks up attributes such as `dtype` on them, for which the error has to
be an AttributeError.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor

MESSAGE = (
    "otr: the logits of this forward do not exist: called with labels, an attached model computes its loss without "
    "them. Call the model without labels to get logits. In evaluation, a trainer with compute_metrics gets them, and "
    "so does every forward with handle.evaluation_needs_logits = True."
)


class NoLogitsError(AttributeError, RuntimeError):
    """Raised where logits are read that do not exist. hasattr() on them is False, because it is an AttributeError."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise NoLogitsError(MESSAGE)


class NoLogits:
    """Stands for logits that do not exist. Only its identity, its type and its text can be read."""

    __torch_function__ = classmethod(_refuse)  # torch's functions call it if an argument has it

    def __getattr__(self, name: str) -> Any:
        _refuse()

    def __repr__(self) -> str:
        return "<no logits: computed with labels by OTR>"

    def __reduce__(self) -> str:
        return "NO_LOGITS"  # copies and pickles are the one object of this module

    def __hash__(self) -> int:
        return id(self)

    def __dir__(self) -> list[str]:
        return []  # otherwise a traceback suggests names that are similar to the one that was read


# Python looks operators up on the class, not by __getattr__.
BINARY = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
UNARY = ("neg", "pos", "abs", "invert", "round", "bool", "int", "float", "index", "array")
COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")
CONTAINER = ("len", "iter", "contains", "getitem", "setitem")
OPERATORS = (*BINARY, *(f"r{name}" for name in BINARY), *UNARY, *COMPARING, *CONTAINER)
for _name in OPERATORS:
    setattr(NoLogits, f"__{_name}__", _refuse)

NO_LOGITS = NoLogits()


@torch.compiler.disable
def replace_logits(output: Any, shapes: set[torch.Size]) -> Any:
    """The output of a model with NO_LOGITS in the place of its logits.

    `shapes` are those of the placeholder, by which the logits are found in a tuple (return_dict=False).
    """
    if isinstance(output, tuple):
        first, *rest = output
        others = (NO_LOGITS if isinstance(one, Tensor) and one.shape in shapes else one for one in rest)
        return (first, *others)
    if isinstance(output, dict) and "logits" in output:  # transformers' ModelOutput is one
        output["logits"] = NO_LOGITS
    elif getattr(output, "logits", None) is not None:
        output.logits = NO_LOGITS
    return output
