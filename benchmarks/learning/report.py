"""The page and its plots, from the results file alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.learning import plan, plots, store, tables, verdicts
from benchmarks.learning.plan import SIZES
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.study import Study
from benchmarks.learning.tables import table

INTRO = """\
# Does it work?

Small models, made by this study itself, learn new things by SFT, DFT and OTR, and are asked what they learnt, what they
make of it beyond what they were shown, and what they still know. Written by `python -m benchmarks learning` from
[the results file]({file}) alone.

These are tiny models and generated tasks. What is said here is true of them; a model of billions of parameters that
learns from people's texts may behave otherwise.
"""

ALIKE = """\
All at the rate that was best for SFT. What holds in one of these tables only is a difference between learning rates as
much as between methods:"""

SHORT = """\
Bold: a difference was found (5%, after Holm's correction over the rows of a column). Variants differ from OTR's
defaults in the one setting they are named for. The regime "format" is in no average: it tests a limit that is known."""

HOW = """\
- Figures are means over seeds ± half of the 95% t interval. A seed decides which examples there are, their order, and
  OTR's draws; methods share seeds. Test questions are the same for all, and are in no training data of any kind.
- A winner is named where a paired t-test over the seeds says so at 5%, after Holm's correction over the regimes of
  the same comparison and measure. Otherwise "no difference was found", which is not "there is none": see the interval.
- Learning rates were searched for every method and regime on {asked} validation questions of the trained distribution
  (with right answers everywhere) and {seeds} seeds that are not reported, over {grid}. The smallest
  rate within {as_good:.0%} of the best was taken: it changes the model least. Where it was at the edge of the grid, the
  search went on.
- Everybody: {steps} steps of {batch} examples, AdamW without weight decay, 10% warm-up, cosine, gradients clipped at 1.
- The vocabulary has 64 tokens, a large model's 100,000 and more: what is said of K may be otherwise there.
- Calibration (ECE, ten bins), entropy and NLL are those of the tokens of the right answers. On a CPU, seconds are the
  process's own. Asking is no part of them.
- GeneralPoints is four cards to 24. What SFT makes of that is in the tables as "24"; "points" is a smaller form: three
  cards, + and -, and any number to make.
- Answers are right only whole, end of text included. Where a hand of cards can make its number in several ways, each of
  them counts. Old skills: the same number of held-out questions of each."""


def write(path: Path) -> str:
    """Says what was written."""
    lines = store.read(path)
    studies = [study for size in SIZES.values() if (study := Study.of(lines, size)) is not None]
    if not studies:
        return f"{path} has no base model yet, so there is no page to write."
    page = path.with_suffix(".md")
    parts = [INTRO.format(file=path.name)]
    for study in studies:
        parts.append(section(study, path))
    page.write_text("\n".join(parts))
    return f"{page} is written."


def readme_figures(lines: list[dict[str, Any]]) -> list[str]:
    study = Study.of(lines, SIZES["cpu"])
    assert study is not None
    return [*table(tables.in_place_of_sft(study)), "", provenance.describe(study.sessions[-1])]


def section(study: Study, path: Path) -> str:
    size, figures = study.size, study.base["figures"]
    named = list(plan.planned(size, study.known))
    done = sum(study.known.of(run) is not None for run in named)
    whole = max(len(named), plan.expected(size))
    lines = [
        f"## Size {size.name}: {figures['parameters']:,} parameters",
        "",
        provenance.describe(study.sessions[-1]),
        "",
    ]
    if done < whole:
        lines += [f"**Unfinished: {done} of {whole} runs are here.** What is missing is left out below.", ""]
    lines += ["### In short", "", "Each method at its own learning rate:", "", *table(tables.overall(study)), ""]
    lines += [ALIKE, "", *table(tables.overall(study.at_one_rate())), "", SHORT, ""]
    for name, what, draw in plots.ALL:
        file = path.with_name(f"{path.stem}-{size.name}-{name}.png")
        if draw(study, file):
            lines += [f"![{what}]({file.name})", ""]
    for question, answers in verdicts.all_of(study).items():
        lines += [f"### {question}", "", *(f"- {answer}" for answer in answers), ""]
    grid = ", ".join(f"{rate:g}" for rate in size.grid)
    lines += [
        "### How it was done",
        "",
        HOW.format(
            seeds=size.search_seeds,
            grid=grid,
            steps=size.steps,
            batch=size.batch,
            asked=size.asked,
            as_good=plan.AS_GOOD,
        ),
        *([f"- {size.note}"] if size.note else []),
        "",
        *_base(study),
        *_regimes(study),
    ]
    for title, make in tables.ALL:
        rows = make(study)
        if len(rows) > 1:
            lines += [f"### {title}", "", *table(rows), ""]
    return "\n".join(lines)


def _base(study: Study) -> list[str]:
    figures = study.base["figures"]
    scores = figures["skills"]
    rows = [list(scores), [f"{100 * score:.1f}%" for score in scores.values()]]
    text = (
        f"The base model: a Llama of width {study.size.width} and {study.size.layers} layers, a token a character, "
        f"pretrained for {figures['steps']:,} steps ({figures['seconds'] / 60:.0f} minutes). Held-out questions it "
        f"answers, {statistics.fmean(scores.values()):.1%} on average:"
    )
    return [text, "", *table(rows), ""]


def _regimes(study: Study) -> list[str]:
    rows = [["regime", "what is learnt", "out of distribution", "before: in", "before: out"]]
    for name in (*study.size.regimes, *study.size.tried):
        before, regime = study.before(name), REGIMES[name]
        shown = [f"{100 * before[key]:.1f}%" for key in ("near", "far")] if before else ["", ""]
        rows.append([name, regime.what, regime.far_is, *shown])
    return [*table(rows), ""]
