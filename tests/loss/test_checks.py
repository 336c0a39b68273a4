"""otr_loss raises a ValueError for a wrong argument. The messages are pinned here."""

import re

import pytest
import torch

from otr_plugin import OTRConfig, otr_loss

GOOD = {
    "hidden": torch.zeros(4, 3),
    "weight": torch.zeros(5, 3),
    "labels": torch.tensor([0, 4, -100, 1]),
    "config": OTRConfig(samples=2),
}
FINITE = "expected a finite number > 0, got"
IN_FLOAT32 = "of a size from 1.2e-38 to 3.4e+38, which float32 holds, got"


class OnAGPU(torch.Generator):
    device = torch.device("cuda:0")  # the check reads only this


ON_A_GPU = OnAGPU()

CASES = [
    (
        {"hidden": torch.zeros(2, 2, 3)},
        "hidden: expected shape [N, D] (pass hidden.flatten(0, -2)), got [2, 2, 3]",
    ),
    ({"hidden": None}, "hidden: expected a torch.Tensor, got NoneType"),
    (
        {"hidden": torch.zeros(4, 3).int()},
        "hidden: expected float32, bfloat16, float16 or float64, got torch.int32",
    ),
    (
        {"weight": torch.zeros(5, 2)},
        "weight: expected shape [V, 3] with V >= 1, because hidden has shape [4, 3], got [5, 2]",
    ),
    (
        {"weight": torch.zeros(0, 3)},
        "weight: expected shape [V, 3] with V >= 1, because hidden has shape [4, 3], got [0, 3]",
    ),
    ({"weight": torch.zeros(5)}, "weight: expected shape [V, 3] with V >= 1, because hidden has shape [4, 3], got [5]"),
    ({"weight": torch.zeros(5, 3).half()}, "weight: expected torch.float32, the dtype of hidden, got torch.float16"),
    (
        {"weight": torch.zeros(5, 3, dtype=torch.uint8)},
        "weight: expected torch.float32, the dtype of hidden, got torch.uint8",
    ),
    (
        {"weight": torch.zeros(5, 3, device="meta")},
        "weight: expected a tensor with values, got one on meta",
    ),
    ({"token_weights": [1.0] * 4}, "token_weights: expected a torch.Tensor, got list"),
    ({"token_weights": torch.ones(3)}, "token_weights: expected shape [4], that of labels, got [3]"),
    (
        {"token_weights": torch.ones(4).long()},
        "token_weights: expected float32, bfloat16, float16 or float64, got torch.int64",
    ),
    (
        {"token_weights": torch.tensor([1, 0, 1, -0.5])},
        "token_weights: expected finite values >= 0, got -0.5 at position 3",
    ),
    (
        {"token_weights": torch.tensor([1, torch.nan, torch.nan, 1])},
        "token_weights: expected finite values >= 0, got nan at position 1",
    ),
    (
        {"token_weights": torch.full((4,), torch.inf)},
        "token_weights: expected finite values >= 0, got inf at position 0",
    ),
    ({"labels": torch.zeros(3).long()}, "labels: expected shape [4], because hidden has shape [4, 3], got [3]"),
    ({"labels": torch.zeros(1, 4).long()}, "labels: expected shape [4], because hidden has shape [4, 3], got [1, 4]"),
    ({"labels": torch.zeros(4)}, "labels: expected int64 or int32, got torch.float32"),
    (
        {"labels": torch.tensor([0, 1, 5, 9])},
        "labels: expected 0 to 4, or -100 at positions that are not trained, got 5 at position 2",
    ),
    (
        {"labels": torch.tensor([0, -1, 5, 9])},
        "labels: expected 0 to 4, or -100 at positions that are not trained, got -1 at position 1",
    ),
    ({"bias": torch.zeros(4)}, "bias: expected shape [5], because weight has shape [5, 3], got [4]"),
    ({"bias": torch.zeros(5).double()}, "bias: expected torch.float32, the dtype of hidden, got torch.float64"),
    ({"uniforms": torch.zeros(4, 3)}, "uniforms: expected shape [4, 2] (positions, samples), got [4, 3]"),
    ({"uniforms": torch.zeros(4)}, "uniforms: expected shape [4, 2] (positions, samples), got [4]"),
    ({"uniforms": torch.zeros(4, 2).bfloat16()}, "uniforms: expected float32 or float64, got torch.bfloat16"),
    ({"uniforms": torch.ones(4, 2)}, "uniforms: expected values in [0, 1), got 1.0"),
    ({"uniforms": torch.full((4, 2), -0.5)}, "uniforms: expected values in [0, 1), got -0.5"),
    ({"uniforms": torch.full((4, 2), torch.nan)}, "uniforms: expected values in [0, 1), got nan"),
    ({"uniforms": [0.5]}, "uniforms: expected a torch.Tensor, got list"),
    ({"num_items": 0}, f"num_items: {FINITE} 0"),
    ({"num_items": -3}, f"num_items: {FINITE} -3"),
    ({"num_items": torch.tensor(0)}, f"num_items: {FINITE} 0"),
    ({"num_items": float("nan")}, f"num_items: {FINITE} nan"),
    ({"num_items": True}, f"num_items: {FINITE} True"),
    ({"num_items": torch.ones(2)}, "num_items: expected one number, got a tensor of shape (2,)"),
    ({"logit_scale": 0}, "logit_scale: expected a finite number other than 0, got 0"),
    ({"logit_scale": float("inf")}, "logit_scale: expected a finite number other than 0, got inf"),
    ({"logit_scale": None}, "logit_scale: expected a finite number other than 0, got None"),
    ({"softcap": 0.0}, "softcap: expected None or a finite number > 0, got 0.0"),
    ({"softcap": -30}, "softcap: expected None or a finite number > 0, got -30"),
    ({"config": {"samples": 2}}, "config: expected an OTRConfig, got dict; write OTRConfig(**settings)"),
    (
        {"config": OTRConfig(kernel="triton")},
        "kernel: expected auto or torch, got triton, which cannot be used here: Triton has no compiler for cpu (on a cpu, TRITON_INTERPRET=1 runs its interpreter, slowly)",
    ),
    ({"generator": 5}, "generator: expected a torch.Generator, got int"),
    ({"hidden": torch.zeros(4, 3, device="meta")}, "hidden: expected a tensor with values, got one on meta"),
    ({"hidden": torch.zeros(4, 3).to_sparse()}, "hidden: expected a dense tensor, got one of layout torch.sparse_coo"),
    ({"labels": torch.zeros(4).to_sparse()}, "labels: expected a dense tensor, got one of layout torch.sparse_coo"),
    (
        {"uniforms": torch.zeros(4, 2).to_sparse()},
        "uniforms: expected a dense tensor, got one of layout torch.sparse_coo",
    ),
    (
        {"num_items": torch.ones(1).to_sparse()},
        "num_items: expected a dense tensor, got one of layout torch.sparse_coo",
    ),
    ({"num_items": torch.ones((), device="meta")}, "num_items: expected a tensor with values, got one on meta"),
    ({"num_items": 10**400}, f"num_items: {FINITE.removesuffix(', got')}, {IN_FLOAT32} a larger integer"),
    ({"num_items": 1e-300}, f"num_items: {FINITE.removesuffix(', got')}, {IN_FLOAT32} 1e-300"),
    ({"logit_scale": 1e39}, f"logit_scale: expected a finite number other than 0, {IN_FLOAT32} 1e+39"),
    ({"softcap": 1e-46}, f"softcap: expected None or a finite number > 0, {IN_FLOAT32} 1e-46"),
    ({"generator": ON_A_GPU}, "generator: expected one on cpu, the device of hidden, got one on cuda:0"),
]


@pytest.mark.parametrize(("bad", "message"), CASES, ids=[message[:50] for _, message in CASES])
def test_a_wrong_argument_raises_this_message(bad, message, monkeypatch):
    monkeypatch.setattr("otr_plugin.loss.LinearLoss", None)  # a computation before the check would fail
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # conftest.py sets it for other tests
    with pytest.raises(ValueError, match=f"^otr_loss: {re.escape(message)}$"):
        otr_loss(**GOOD | bad)


def test_valid_arguments_are_accepted():
    otr_loss(**GOOD)
    for good in (
        {"labels": GOOD["labels"].int()},
        {"num_items": 3.5, "softcap": 30, "logit_scale": -1},
        {"uniforms": torch.full((4, 2), 1 - 2**-53, dtype=torch.float64)},
        {"config": None},
        {"config": OTRConfig(kernel="torch")},
        {"config": OTRConfig(top_k=1000, samples=2)},
        {"config": OTRConfig(top_k=10**299, samples=2, chunk_tokens=10**299)},
        {"num_items": 10**30},
    ):
        otr_loss(**GOOD | good)


def test_dtypes_may_differ_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        otr_loss(**GOOD | {"weight": GOOD["weight"].bfloat16()})
        with pytest.raises(ValueError, match=r"weight: expected torch\.float32, the dtype of hidden, got torch\.uint8"):
            otr_loss(**GOOD | {"weight": GOOD["weight"].byte()})
