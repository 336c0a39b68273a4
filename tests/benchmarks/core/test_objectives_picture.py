"""The curves of the picture in docs/objectives.md are the formulas of that page, for two tokens."""

import torch

from benchmarks.performance.objectives_picture import CURVES, curve, probabilities


def test_the_curves_are_the_formulas_of_the_page():
    p = probabilities()[::40]
    q = torch.sigmoid(torch.special.logit(p) / 1.3)
    entropy = torch.special.entr(p) + torch.special.entr(1 - p)
    weights = {
        "sft": torch.ones_like(p),
        "power, alpha 0.7": p**0.7,
        "dft": p,
        "eaft": entropy / torch.log(torch.tensor(2.0, dtype=p.dtype)),
        "otr, expected": 1.1 * q - 0.1,
    }
    assert weights.keys() == CURVES.keys()
    for name, weight in weights.items():
        found = curve(p, CURVES[name][0])
        torch.testing.assert_close(found.weight, weight)
        pull = q * (1 - p) + 0.1 * p * (1 - q) if name == "otr, expected" else weight * (1 - p)
        torch.testing.assert_close(found.pull, pull)
