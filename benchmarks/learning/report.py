"""The page and its plots, written from the results file alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks import provenance
from benchmarks.learning import claims, comparisons, plan, plots, store, tables
from benchmarks.learning.plan import SIZES
from benchmarks.learning.regimes import REGIMES
from benchmarks.learning.study import NEW_TOKENS, Study
from benchmarks.learning.tables import table

INTRO = """\
# SFT, DFT and OTR on small models

Small models, pretrained by this study itself, are fine-tuned on new tasks with SFT, DFT and OTR. They are then tested
on the new task, on the new task out of distribution, and on the skills that they had before.
`python -m benchmarks learning` writes this page from [the results file]({file}) alone.

The models are tiny and the tasks are generated. A model with billions of parameters that learns from human text may
behave differently.
"""

BY_REGIME = """\
The table shows percentage points of correct answers ± half of the 95% confidence interval. Every method uses the
learning rate that is best for SFT. Bold: a difference was found (paired t-test over the seeds at 5%, with Holm's
correction over the regimes of the same comparison and measure)."""

AVERAGES = """\
An average hides that the regimes differ: read the tables by regime first. All methods use the learning rate that is
best for SFT:"""

OWN_RATES = """\
Each method uses its own learning rate. A difference that is in only one of these two tables may be a difference between
learning rates:"""

AVERAGES_NOTE = """\
Bold: a difference was found (5%, with Holm's correction over the rows of a column). Each variant differs from OTR's
defaults in the one setting that names it. The regime "{new_tokens}" is in no average: it tests a known limit."""

METHOD = """\
- Figures are means over seeds ± half of the 95% confidence interval (t distribution). A seed determines the training
  examples, their order, and OTR's draws. All methods use the same seeds. The test questions are the same for all seeds
  and methods, and no training data contain them.
- A difference is "found" if a paired t-test over the seeds is significant at 5% after Holm's correction over the
  regimes of the same comparison and measure. "No difference was found" does not mean that there is none: see the
  interval.
- The learning rate of every method and regime was chosen by validation accuracy on {questions} questions of the trained
  distribution, all with correct answers, with {search_seeds} seeds that are not reported, from {grid}. The
  smallest rate within {tolerance:.0%} of the best was chosen, because it changes the model least. If it was at the edge
  of the grid, the grid was extended.
- All methods train for {steps} steps of {batch} examples with AdamW without weight decay, 10% warm-up, a cosine
  schedule and gradient norms clipped at 1.
- The vocabulary has 64 tokens. Statements about K may not hold for the 100,000 and more tokens of a large model.
- NLL, entropy and the expected calibration error (ECE, ten bins) are over the tokens of the correct answers. On a CPU,
  seconds are process time. They do not include the evaluation.
- GeneralPoints is the regime "24" (four cards make 24), which only SFT was tried on. The regime "points" is an easier
  form: three cards, + and -, and any target.
- An answer is correct only as a whole, including its end token. If a hand of cards can make its target in several ways,
  each of them is correct. Old skills are tested with the same number of test questions for each skill."""


def write(path: Path) -> str:
    """Writes the page and the plots beside the results file, and returns a message about it."""
    lines = store.read(path)
    studies = [study for size in SIZES.values() if (study := Study.of(lines, size)) is not None]
    if not studies:
        return f"{path} has no base model, so no page was written. Run `python -m benchmarks learning` first."
    page = path.with_suffix(".md")
    page.write_text("\n".join([INTRO.format(file=path.name), *(section(study, path) for study in studies)]))
    return f"{page} is written."


def readme_figures(lines: list[dict[str, Any]]) -> list[str]:
    """The README's table of the study, from the lines of the results file."""
    study = Study.of(lines, SIZES["cpu"])
    assert study is not None
    return [*table(tables.readme(study)), "", provenance.describe(study.sessions[-1])]


def section(study: Study, path: Path) -> str:
    """The page's part about one size. Writes its plots beside `path`."""
    size, figures = study.size, study.base["figures"]
    planned = list(plan.planned_runs(size, study.results))
    finished = sum(study.results.get(run) is not None for run in planned)
    total = max(len(planned), plan.expected_run_count(size))
    lines = [f"## Size {size.name}: {figures['parameters']:,} parameters", ""]
    lines += [provenance.describe(study.sessions[-1]), ""]
    if finished < total:
        lines += [f"**Unfinished: {finished} of {total} runs are recorded.** The page leaves out the others.", ""]
    lines += ["### Which loss to use", "", claims.EXPLORATORY, *([size.note, ""] if size.note else [])]
    lines += [*(f"- {text}" for text in claims.all_of(study)), ""]
    lines += [
        "### Differences from SFT by regime",
        "",
        *_regimes(study),
        BY_REGIME,
        "",
        *table(tables.minus_sft(study)),
        "",
    ]
    for name, caption, draw in plots.ALL:
        file = path.with_name(f"{path.stem}-{size.name}-{name}.png")
        if draw(study, file):
            lines += [f"![{caption}]({file.name})", ""]
    for heading, sentences in comparisons.sections(study).items():
        lines += [f"### {heading}", "", *(f"- {sentence}" for sentence in sentences), ""]
    lines += ["### Averages over regimes", "", AVERAGES, "", *table(tables.averages(study.at_sft_rate())), ""]
    lines += [OWN_RATES, "", *table(tables.averages(study)), ""]
    lines += [AVERAGES_NOTE.format(new_tokens=NEW_TOKENS), ""]
    method = METHOD.format(
        questions=size.questions,
        search_seeds=size.search_seeds,
        grid=", ".join(f"{rate:g}" for rate in size.grid),
        tolerance=plan.RATE_TOLERANCE,
        steps=size.steps,
        batch=size.batch,
    )
    lines += ["### Method", "", method, "", *_base_model(study)]
    for title, rows_of in tables.ALL:
        rows = rows_of(study)
        if len(rows) > 1:
            lines += [f"### {title}", "", *table(rows), ""]
    return "\n".join(lines)


def _base_model(study: Study) -> list[str]:
    figures = study.base["figures"]
    accuracy = figures["skills"]
    rows = [list(accuracy), [f"{100 * share:.1f}%" for share in accuracy.values()]]
    text = (
        f"The base model is a Llama of width {study.size.width} with {study.size.layers} layers and one token per "
        f"character. It was pretrained for {figures['steps']:,} steps ({figures['seconds'] / 60:.0f} minutes). It "
        f"answers {statistics.fmean(accuracy.values()):.1%} of the test questions correctly on average, by skill:"
    )
    return [text, "", *table(rows), ""]


def _regimes(study: Study) -> list[str]:
    rows = [["regime", "task", "out of distribution", "base model, in distribution", "base model, out of distribution"]]
    for name in (*study.size.regimes, *study.size.sft_only_regimes):
        base, regime = study.base_figures(name), REGIMES[name]
        cells = [f"{100 * base[key]:.1f}%" for key in ("near", "far")] if base else ["", ""]
        rows.append([name, regime.description, regime.shift, *cells])
    return [*table(rows, text_columns=3), ""]
