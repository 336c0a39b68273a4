"""The page's plots. Each function returns False and writes no file if its runs are not finished."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.learning.plan import OTR, VARIANTS
from benchmarks.learning.stats import mean_over_seeds
from benchmarks.learning.study import MEASURES, Study
from otr_plugin import OTRConfig

METHOD_COLOURS = {"SFT": "#3b6fb6", "DFT": "#5a9e4b", OTR: "#d1642e", "OTR exact": "#8a5bb0"}
MEASURE_STYLES = {"near": "-", "far": "--", "old": ":"}
SWEPT_SETTINGS = {"κ": "temperature", "β": "beta", "K": "samples"}
Y_LIMITS = (-4, 104)  # percent


def sweep(setting: str) -> list[tuple[float, str]]:
    """The values of a setting that were run, in ascending order, each with the method that has it."""
    values = [(settings[setting], variant) for variant, settings in VARIANTS.items() if setting in settings]
    return sorted([*values, (getattr(OTRConfig(), setting), OTR)])


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> bool:
    # The metadata would name matplotlib's version; without it, the same figures give the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})
    _pyplot().close(figure)
    return True


def _style(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)


def _legend(figure: Any, axis: Any, columns: int) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False)


def outcomes(study: Study, path: Path) -> bool:
    """Correct answers by regime and method, one panel per measure."""
    regimes = study.finished_regimes(*study.size.methods)
    if not regimes:
        return False
    figure, axes = _pyplot().subplots(len(MEASURES), 1, figsize=(10, 9), layout="constrained", sharex=True)
    for axis, (name, measure) in zip(axes, MEASURES.items(), strict=True):
        for i, method in enumerate(study.size.methods):
            means = [mean for regime in regimes if (mean := study.mean(method, regime, name)) is not None]
            positions = [x + (i - (len(study.size.methods) - 1) / 2) * 0.16 for x in range(len(regimes))]
            axis.errorbar(
                positions,
                [100 * mean.value for mean in means],
                [100 * mean.half_width for mean in means],
                fmt="o",
                markersize=5,
                capsize=3,
                color=METHOD_COLOURS[method],
                label=method,
            )
        axis.set(title=measure, ylabel="correct answers, %", ylim=Y_LIMITS)
        _style(axis)
    axes[-1].set_xticks(range(len(regimes)), regimes)
    _legend(figure, axes[0], columns=4)
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
    """Validation accuracy and old skills by learning rate, from the search runs."""
    regimes = [r for r in study.size.regimes if all(study.search_accuracy(m, r) for m in study.size.methods)]
    if not regimes:
        return False
    figure, axes = _panels(len(regimes))
    for axis, regime in zip(axes, regimes, strict=True):
        for method in study.size.methods:
            colour, accuracy = METHOD_COLOURS[method], study.search_accuracy(method, regime)
            old = {r: mean.value for r in accuracy if (mean := study.search_mean(method, regime, r, "old")) is not None}
            axis.plot([*accuracy], [100 * a for a in accuracy.values()], "o-", ms=3, color=colour, label=method)
            axis.plot([*old], [100 * a for a in old.values()], ":", color=colour)
        axis.set(title=regime, xscale="log", ylim=Y_LIMITS, xlabel="learning rate")
        _style(axis)
    axes[0].set_ylabel("%: validation (solid), old skills (dotted)")
    _legend(figure, axes[0], columns=4)
    return _save(figure, path)


def courses(study: Study, path: Path) -> bool:
    """Validation accuracy by the number of trained tokens."""
    regimes = study.finished_regimes(*study.size.methods)
    if not regimes:
        return False
    figure, axes = _panels(len(regimes))
    for axis, regime in zip(axes, regimes, strict=True):
        for method in study.size.methods:
            by_seed = [final["course"] for final in study.final_figures(method, regime)]
            validations = list(zip(*by_seed, strict=True))
            tokens = [mean_over_seeds([seed[1] for seed in seeds]).value / 1000 for seeds in validations]
            accuracy = [mean_over_seeds([100 * seed[3] for seed in seeds]) for seeds in validations]
            axis.plot(tokens, [mean.value for mean in accuracy], color=METHOD_COLOURS[method], label=method)
            low, high = ([mean.value + sign * mean.half_width for mean in accuracy] for sign in (-1, 1))
            axis.fill_between(tokens, low, high, color=METHOD_COLOURS[method], alpha=0.12, linewidth=0)
        axis.set(title=regime, ylim=Y_LIMITS, xlabel="thousand trained tokens")
        _style(axis)
    axes[0].set_ylabel("validation accuracy, %")
    _legend(figure, axes[0], columns=4)
    return _save(figure, path)


def sweeps(study: Study, path: Path) -> bool:
    """Correct answers by κ, β and K. One setting varies, the others have their defaults, and all have SFT's rate."""
    study = study.at_sft_rate()
    regimes = [r for r in study.size.variant_regimes if any(study.final_figures(v, r) for v in VARIANTS)]
    if not regimes:
        return False
    figure, axes = _pyplot().subplots(
        len(regimes), len(SWEPT_SETTINGS), figsize=(11, 3.2 * len(regimes)), layout="constrained", squeeze=False
    )
    for row, regime in zip(axes, regimes, strict=True):
        for axis, (letter, setting) in zip(row, SWEPT_SETTINGS.items(), strict=True):
            values = sweep(setting)
            for name, measure in MEASURES.items():
                known = [(x, mean) for x, method in values if (mean := study.mean(method, regime, name)) is not None]
                axis.errorbar(
                    [x for x, _ in known],
                    [100 * mean.value for _, mean in known],
                    [100 * mean.half_width for _, mean in known],
                    fmt="o" + MEASURE_STYLES[name],
                    markersize=4,
                    capsize=3,
                    color=METHOD_COLOURS[OTR],
                    label=measure,
                )
            axis.set(title=f"{regime}: {letter}", ylim=Y_LIMITS)
            if letter == "K":
                axis.set_xscale("log", base=4)
            axis.set_xticks([x for x, _ in values], [f"{x:g}" for x, _ in values])
            _style(axis)
        row[0].set_ylabel("correct answers, %")
    _legend(figure, axes[0][0], columns=3)
    return _save(figure, path)


ALL: tuple[tuple[str, str, Callable[[Study, Path], bool]], ...] = (
    ("outcomes", "Correct answers by regime and method, each method at its own learning rate", outcomes),
    ("courses", "Validation accuracy by trained tokens, each method at its own learning rate", courses),
    ("rates", "Validation accuracy and old skills by learning rate", rates),
    ("sweeps", "Correct answers by κ, β and K, all at SFT's learning rate", sweeps),
)
