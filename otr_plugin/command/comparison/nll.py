"""Which logged value is a run's NLL.

A host's `loss` is the mean NLL, in a run with OTR too (docs/metrics.md), and a host averages it over steps and ranks in
its own way. `otr/nll` is averaged over tokens. So runs are compared by `otr/nll` if all have it, and otherwise by
`loss`, averaged alike. A `loss` that something else is added to, or that another objective replaces, is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from otr_plugin.command.comparison.run import Run

# Settings of the hosts with which `loss` is another value, and the value that means off.
OTHER_LOSSES = {
    "label_smoothing_factor": "label smoothing is in it",
    "use_dft_loss": "it is DFT's objective",
    "enable_dft_loss": "it is DFT's objective",
    "use_eaft_loss": "it is EAFT's objective",
    "use_eaft": "it is EAFT's objective",
    "use_asft_loss": "it is ASFT's objective",
    "liger_use_token_scaling": "it is DFT's objective",
    "rl": "it is a preference or RL loss",
    "rlhf_type": "it is a preference or RL loss",
    "kd_trainer": "it is a distillation loss",
    "reward_model": "it is a reward model's loss",
    "process_reward_model": "it is a reward model's loss",
}
OTHER_LOSS_TYPES = ("dft", "eaft", "asft")
FARTHEST = 0.05  # relative: averages over steps and over tokens differ by less


def why_not_nll(run: Run) -> str | None:
    """Why the `loss` that a run logged is no NLL; None if nothing says so."""
    settings = run.settings()
    for name, reason in OTHER_LOSSES.items():
        if settings.get(name):
            return f"`{name}: {settings[name]}`: {reason}"
    if settings.get("loss_type") in OTHER_LOSS_TYPES:
        return f"`loss_type: {settings['loss_type']}`: it is another objective"
    both = [
        (entry["loss"], entry["otr/nll"])
        for entry in run.log
        if all(math.isfinite(entry.get(name, math.nan)) for name in ("loss", "otr/nll"))
    ]
    if both:
        loss, nll = (fmean(values) for values in zip(*both, strict=True))
        if abs(loss - nll) > FARTHEST * abs(nll):
            return f"its mean is {loss:.4g}, and that of `otr/nll` {nll:.4g}"
    return None


def names_of_nll(runs: Sequence[Run]) -> tuple[list[str | None], list[str]]:
    """The name of each run's NLL in its log, None where it logged none; and notes that explain them."""
    reasons = [why_not_nll(run) for run in runs]
    has_metrics = [any("otr/nll" in entry for entry in run.log) for run in runs]
    if all(has_metrics):
        return ["otr/nll"] * len(runs), ["NLL: `otr/nll` of all runs"]
    names: list[str | None] = []
    notes = []
    for run, reason, has in zip(runs, reasons, has_metrics, strict=True):
        names.append("loss" if reason is None else "otr/nll" if has else None)
        if reason is not None:
            instead = "`otr/nll` stands in its place" if has else "only its eval_loss is compared"
            notes.append(f"{run.name}: `loss` is no NLL: {reason}; {instead}")
    if "loss" in names:
        notes.insert(0, "NLL: the `loss` that the hosts logged, which is the mean NLL in runs with OTR too")
    return names, notes
