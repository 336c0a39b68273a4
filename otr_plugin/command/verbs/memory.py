"""`otr memory`: how much GPU memory a recipe takes, counted on a step without values."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otr_plugin.command.console import CANNOT_TELL, GOOD, HOST_NAMES, PROBLEM, Failure, emit, table, verb

if TYPE_CHECKING:
    from otr_plugin.command.memory.card import Card
    from otr_plugin.command.memory.estimate import Estimate
    from otr_plugin.command.memory.plan import TrainingPlan

NOT_COMPARED = "not yet compared with a card: counted from the sizes of tensors, and no GPU has confirmed it"


@dataclass(frozen=True)
class Result:
    """The estimates for a recipe, the first one of the recipe itself, and what they were made for."""

    recipe: Path
    plan: TrainingPlan
    card: Card | None
    estimates: list[Estimate]
    missing: dict[str, str]  # losses without an estimate, and why
    with_longest: bool
    seconds: float

    def fits(self, estimate: Estimate) -> bool | None:
        """Whether the card has room; None without a card."""
        return None if self.card is None else estimate.bytes <= self.card.usable


@verb(short_help="Estimate the GPU memory that RECIPE takes, and what fits.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--gpu", "--vram", metavar="CARD", help="Whether it fits: a card, such as rtx4090 or h100, or its GiB.")
@click.option("--longest", is_flag=True, help="Find the longest sequence that fits. Needs --gpu.")
@click.option("--against", type=click.Choice(["sft", "otr"]), help="The same recipe with another loss beside it.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True),
    help="The model's config.json, or a folder with NAME.json. By default: the model's folder, or the hub.",
)
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Draw memory over time into this file.")
@click.option("--host", type=click.Choice(HOST_NAMES), help="The host, if the recipe's keys do not tell.")
def command(
    recipe: Path,
    gpu: str | None,
    longest: bool,
    against: str | None,
    config: Path | None,
    png: Path | None,
    host: str | None,
    as_json: bool,
) -> int:
    """Estimate the GPU memory that a step of RECIPE takes.

    The step runs on tensors that have sizes and no values: the model from its config, PEFT, checkpointing, the
    optimiser and the loss. Nothing is downloaded but the model's config, if it is not here.
    """
    from otr_plugin.command.memory import card as cards
    from otr_plugin.command.memory.plan import settled

    if longest and gpu is None:
        raise click.UsageError("--longest needs --gpu")
    card = None if gpu is None else cards.card(gpu)
    plan = import_module("otr_plugin.command.memory.reading").plan_of(recipe, host)
    _require_packages(plan)
    started = time.monotonic()
    with _quiet():
        found = import_module("otr_plugin.command.memory.model_config").config_of(plan.model, config)
        plan = settled(plan, found)
        estimates, missing = _estimates(found, plan, card, longest, against)
    result = Result(recipe, plan, card, estimates, missing, longest, time.monotonic() - started)
    if png is not None:
        limit = None if card is None else card.usable
        import_module("otr_plugin.command.memory.picture").save(estimates[0].record, limit, str(recipe.name), png)
    code = PROBLEM if result.fits(estimates[0]) is False else GOOD
    if as_json:
        emit(_document(result) | {"exit_code": code})
    else:
        _show(result)
    return code


def _require_packages(plan: TrainingPlan) -> None:
    from otr_plugin.command.recipes import HOSTS

    needed = ["torch", "transformers", "accelerate"]
    needed += ["peft"] if plan.adapter is not None else []
    needed += ["bitsandbytes"] if plan.four_bit is not None else []
    needed += ["liger_kernel"] if any(vars(plan.liger).values()) else []
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        title = HOSTS[plan.host].title
        advice = f"run otr in the environment in which {title} is installed, or install what is missing"
        raise Failure(
            f"{', '.join(missing)}: not installed here, and the recipe's step needs it: {advice}", CANNOT_TELL
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of libraries about this machine's CPU and its missing GPU."""
    import logging
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _estimates(
    config: Any, plan: TrainingPlan, card: Card | None, longest: bool, against: str | None
) -> tuple[list[Estimate], dict[str, str]]:
    """The estimates, and for each contender without one the reason."""
    from otr_plugin.command.memory.estimate import FUSED, contenders, estimate

    plans = contenders(plan, against)
    missing = {}
    if FUSED in plans and find_spec("liger_kernel") is None:
        missing[FUSED] = "liger-kernel is not installed here"
    elif FUSED in plans:
        known = import_module("liger_kernel.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
        if config.model_type not in known:  # Liger leaves such a model as it is
            missing[FUSED] = f"Liger has no kernels for {config.model_type}"
    for name in missing:
        del plans[name]
    made = []
    layers = config.get_text_config().num_hidden_layers
    with _progress(len(plans) * (4 if longest else 1) * layers * (1 if plan.checkpointing == "none" else 2)) as count:
        for name, one in plans.items():
            made.append(_attempt(lambda: estimate(config, name, one, card, longest, count)))  # noqa: B023
    return made, missing


def _attempt(estimate: Callable[[], Estimate]) -> Estimate:
    try:
        return estimate()
    except Failure:
        raise
    except Exception as error:  # of any type that a model's code raises on tensors without values
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        message = f"cannot tell: the step on tensors without values ended with {type(error).__name__}: {reason}"
        raise Failure(f"{message}. Please report the recipe and the model", CANNOT_TELL) from error


@contextmanager
def _progress(layers: int) -> Iterator[Callable[[], None]]:
    """A bar with the remaining time, on a terminal only; the function in it counts one layer."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("a step on paper"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=layers)
        yield lambda: progress.advance(task)


def _document(result: Result) -> dict[str, Any]:
    from otr_plugin.command.memory.ledger import PARTS
    from otr_plugin.command.memory.picture import sampled

    plan, card = result.plan, result.card
    described = asdict(plan) | {"otr": None if plan.otr is None else plan.otr.model_dump()}
    lines = []
    for each in result.estimates:
        peak = each.record.peak
        parts = dict(zip(PARTS, peak.parts, strict=True))
        line: dict[str, Any] = {"name": each.name, "peak_bytes": peak.total, "phase": peak.phase, "parts": parts}
        if card is not None:
            line |= {"fits": result.fits(each), "longest": each.longest}
        lines.append(line)
    curve = [{"phase": one.phase, "parts": list(one.parts)} for one in sampled(result.estimates[0].record.moments, 200)]
    return {
        "recipe": str(result.recipe),
        "plan": described,
        "gpu": None if card is None else {"name": card.name, "gib": card.gib, "usable_bytes": round(card.usable)},
        "fits": result.fits(result.estimates[0]),
        "estimates": lines,
        "not_estimated": result.missing,
        "over_time": {"parts": list(PARTS), "moments": curve},
        "not_counted": list(plan.not_counted),
        "compared_with_a_card": False,
        "seconds": round(result.seconds, 1),
    }


def _show(result: Result) -> None:
    from otr_plugin.command.memory import card as cards
    from otr_plugin.command.memory import picture
    from otr_plugin.command.recipes import HOSTS

    plan, card, this = result.plan, result.card, result.estimates[0]
    peak = this.record.peak
    rows = "row" if plan.rows == 1 else "rows"
    loss = "OTR" if plan.otr is not None else "SFT"
    batch = f"{plan.rows} {rows} of {plan.sequence:,} tokens"
    click.echo(f"{result.recipe}: {HOSTS[plan.host].title}, {plan.model}, {loss}, {batch}")
    when = "update" if peak.phase == "update" else f"{peak.phase} pass"
    click.echo(f"peak: {picture.gib(peak.total)}, in the {when}")
    click.echo(NOT_COMPARED)
    click.echo()
    table("At the peak", ["part", "memory", ""], picture.bars(peak))
    click.echo()
    click.echo("Over time")
    for line in picture.over_time(this.record):
        click.echo(line)
    if card is not None:
        click.echo()
        verdict = "fits" if result.fits(this) else "does not fit"
        room = f"{card.gib:g} GiB have {picture.gib(card.usable)} for tensors"
        margin = f"{picture.gib(cards.CONTEXT)} for CUDA itself and {cards.FRAGMENTED:.0%} lost between blocks"
        click.echo(f"{verdict}: {room}, after a margin of {margin}")
    if len(result.estimates) > 1 or result.missing or result.with_longest:
        click.echo()
        columns = ["loss", "peak", *(["fits"] if card else []), *(["longest sequence"] if result.with_longest else [])]
        table(
            "Beside other losses" if len(result.estimates) > 1 else "The longest sequence",
            columns,
            [
                *(_line(each, result) for each in result.estimates),
                *([name, reason] + [""] * (len(columns) - 2) for name, reason in result.missing.items()),
            ],
        )
    click.echo()
    for note in plan.not_counted:
        click.echo(f"not counted: {note}")
    click.echo("not counted: loading the model, evaluation, and other processes on the card")
    click.echo(f"counted in {result.seconds:.0f} s")


def _line(each: Estimate, result: Result) -> list[str]:
    from otr_plugin.command.memory import picture

    cells = [each.name, picture.gib(each.bytes)]
    if result.card is not None:
        cells.append("yes" if result.fits(each) else "no")
    if result.with_longest:
        cells.append("none" if each.longest is None else f"{each.longest:,} tokens")
    return cells
