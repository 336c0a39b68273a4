"""The page's plots. Each says whether it had something to draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.learning import plan
from benchmarks.learning.stats import mean
from benchmarks.learning.study import DEFAULT, MEASURES, Study

COLOURS = {"SFT": "#3b6fb6", "DFT": "#5a9e4b", "OTR": "#d1642e", "OTR exact": "#8a5bb0"}
STYLES = {"near": "-", "far": "--", "old": ":"}
SWEEPS: dict[str, tuple[tuple[str, float], ...]] = {
    "κ": (("κ=1", 1), (DEFAULT, 1.3), ("κ=2", 2)),
    "β": (("β=-0.5", -0.5), (DEFAULT, -0.1), ("β=0", 0), ("β=0.5", 0.5)),
    "K": (("K=1", 1), ("K=16", 16), (DEFAULT, 256), ("K=4096", 4096)),
}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> bool:
    figure.savefig(path, dpi=110, metadata={"Software": None})  # the same bytes from the same figures
    _pyplot().close(figure)
    return True


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)


def outcomes(study: Study, path: Path) -> bool:
    """Where each method ends, by regime."""
    shown = study.regimes_of(*study.size.methods)
    if not shown:
        return False
    figure, axes = _pyplot().subplots(len(MEASURES), 1, figsize=(10, 9), layout="constrained", sharex=True)
    for axis, (name, called) in zip(axes, MEASURES.items(), strict=True):
        for i, method in enumerate(study.size.methods):
            found = [found for regime in shown if (found := study.mean(method, regime, name)) is not None]
            at = [x + (i - (len(study.size.methods) - 1) / 2) * 0.16 for x in range(len(shown))]
            axis.errorbar(
                at,
                [100 * one.value for one in found],
                [100 * one.half for one in found],
                fmt="o",
                markersize=5,
                capsize=3,
                color=COLOURS[method],
                label=method,
            )
        axis.set(title=called, ylabel="right answers, %", ylim=(-4, 104))
        _plain(axis)
    axes[-1].set_xticks(range(len(shown)), shown)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, path)


def _panels(count: int) -> tuple[Any, list[Any]]:
    rows = -(-count // 4)
    figure, axes = _pyplot().subplots(
        rows, min(count, 4), figsize=(3.4 * min(count, 4), 3.2 * rows), layout="constrained", squeeze=False
    )
    every = list(axes.flat)
    for axis in every[count:]:
        axis.set_visible(False)
    return figure, every[:count]


def rates(study: Study, path: Path) -> bool:
    """What each rate of the search led to: the new, and what is left of the old."""
    shown = [r for r in study.size.regimes if all(study.scores(m, r) for m in study.size.methods)]
    if not shown:
        return False
    figure, axes = _panels(len(shown))
    for axis, regime in zip(axes, shown, strict=True):
        for method in study.size.methods:
            scores = study.scores(method, regime)
            old = {r: one.value for r in scores if (one := study.searched(method, regime, r, "old")) is not None}
            axis.plot([*scores], [100 * s for s in scores.values()], "o-", ms=3, color=COLOURS[method], label=method)
            axis.plot([*old], [100 * s for s in old.values()], ":", color=COLOURS[method])
        axis.set(title=regime, xscale="log", ylim=(-4, 104), xlabel="learning rate")
        _plain(axis)
    axes[0].set_ylabel("%: validation (line), old skills (dots)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, path)


def courses(study: Study, path: Path) -> bool:
    """Validation accuracy over the tokens that were trained."""
    shown = study.regimes_of(*study.size.methods)
    if not shown:
        return False
    figure, axes = _panels(len(shown))
    for axis, regime in zip(axes, shown, strict=True):
        for method in study.size.methods:
            looks = list(zip(*(final["course"] for final in study.finals(method, regime)), strict=True))
            tokens = [mean([look[1] for look in some]).value / 1000 for some in looks]
            right = [mean([100 * look[3] for look in some]) for some in looks]
            axis.plot(tokens, [one.value for one in right], color=COLOURS[method], label=method)
            low, high = ([one.value + sign * one.half for one in right] for sign in (-1, 1))
            axis.fill_between(tokens, low, high, color=COLOURS[method], alpha=0.12, linewidth=0)
        axis.set(title=regime, ylim=(-4, 104), xlabel="thousand trained tokens")
        _plain(axis)
    axes[0].set_ylabel("validation questions, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return _save(figure, path)


def sweeps(study: Study, path: Path) -> bool:
    """κ, β and K, one at a time, the others at their defaults; at one rate, so that nothing else differs."""
    study = study.at_one_rate()
    shown = [r for r in study.size.swept if any(study.finals(v, r) for v in plan.VARIANTS)]
    if not shown:
        return False
    figure, axes = _pyplot().subplots(
        len(shown), len(SWEEPS), figsize=(11, 3.2 * len(shown)), layout="constrained", squeeze=False
    )
    for row, regime in zip(axes, shown, strict=True):
        for axis, (letter, values) in zip(row, SWEEPS.items(), strict=True):
            for name, called in MEASURES.items():
                known = [(x, one) for v, x in values if (one := study.mean(v, regime, name)) is not None]
                axis.errorbar(
                    [x for x, _ in known],
                    [100 * one.value for _, one in known],
                    [100 * one.half for _, one in known],
                    fmt="o" + STYLES[name],
                    markersize=4,
                    capsize=3,
                    color=COLOURS[DEFAULT],
                    label=called,
                )
            axis.set(title=f"{regime}: {letter}", ylim=(-4, 104))
            if letter == "K":
                axis.set_xscale("log", base=4)
            axis.set_xticks([x for _, x in values], [f"{x:g}" for _, x in values])
            _plain(axis)
        row[0].set_ylabel("right answers, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return _save(figure, path)


ALL: tuple[tuple[str, str, Callable[[Study, Path], bool]], ...] = (
    ("outcomes", "Right answers by regime and method", outcomes),
    ("courses", "Validation accuracy over the trained tokens", courses),
    ("rates", "Validation accuracy and old skills by learning rate", rates),
    ("sweeps", "Right answers by κ, β and K, all at SFT's rate", sweeps),
)
