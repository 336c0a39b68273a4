"""The picture of docs/objectives.md: how each objective weighs a label of probability p, with two tokens.

Every curve is computed by the package's own loss, one position for each p. With two tokens, the label's probability
determines the whole distribution.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.paths import RESULTS
from otr_plugin import OTRConfig, otr_loss

CURVES = {
    "sft": (OTRConfig(objective="sft"), "#3b6fb6"),
    "power, alpha 0.7": (OTRConfig(objective="power", alpha=0.7), "#2a9d9d"),
    "dft": (OTRConfig(objective="dft"), "#5a9e4b"),
    "eaft": (OTRConfig(objective="eaft"), "#8a5bb0"),
    "otr, expected": (OTRConfig(estimator="exact"), "#d1642e"),
}
POINTS = 400


class Curve(NamedTuple):
    weight: torch.Tensor  # A, the factor of p in the gradient of the logits
    pull: torch.Tensor  # minus the gradient of the label's logit


def add_to(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=RESULTS / "objectives.png")
    parser.set_defaults(run=run)


def probabilities() -> torch.Tensor:
    """Probabilities of the label, evenly spaced in the logit."""
    return torch.linspace(-11.5, 7, POINTS, dtype=torch.float64).sigmoid()


def curve(p: torch.Tensor, config: OTRConfig) -> Curve:
    """The curve of an objective at the probabilities p of the label."""
    hidden = torch.special.logit(p).unsqueeze(1).requires_grad_()
    head = torch.tensor([[1.0], [0.0]], dtype=p.dtype)  # two tokens; the label is the first one
    labels = torch.zeros(len(p), dtype=torch.int64)
    loss = otr_loss(hidden, head, labels, config, num_items=1).loss
    (gradient,) = torch.autograd.grad(loss, hidden)
    rows = zip(hidden.detach(), labels, strict=True)
    weights = [otr_loss(h[None], head, y[None], config).metrics["weight"] for h, y in rows]
    return Curve(torch.stack(weights), -gradient.squeeze(1))


def run(args: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    p = probabilities()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for name, (config, colour) in CURVES.items():
        found = curve(p, config)
        _draw(left, p, found.weight, name, colour)
        _draw(right, p, found.pull, name, colour)
    left.set(
        title="weight A: the factor of p in the gradient", ylabel="|A|, dashed where A is negative", ylim=(1e-5, 2)
    )
    right.set(title="pull: minus the gradient of the label's logit", ylabel="pull", ylim=(1e-5, 2))
    for axes in (left, right):
        axes.set(xscale="log", yscale="log", xlabel="probability of the label")
        axes.grid(alpha=0.3)
    left.legend(loc="lower right")
    # Without the metadata, which name matplotlib's version, the same curves give the same bytes.
    figure.savefig(args.out, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _draw(axes: Any, p: torch.Tensor, values: torch.Tensor, name: str, colour: str) -> None:
    for sign, style, label in ((1, "-", name), (-1, "--", None)):
        shown = torch.where(sign * values > 0, values.abs(), torch.nan)
        if not shown.isnan().all():
            axes.plot(p, shown, style, color=colour, label=label)
