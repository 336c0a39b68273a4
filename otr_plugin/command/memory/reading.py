"""The plan of a recipe's file, by the module of its host."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from otr_plugin.command import files, recipes
from otr_plugin.command.console import CANNOT_TELL, PROBLEM, Failure
from otr_plugin.command.memory.plan import TrainingPlan
from otr_plugin.hosts.recipes import RecipeError


def plan_of(path: Path, chosen: str | None = None) -> TrainingPlan:
    """What the recipe says that decides about memory. `chosen` is the host, if the keys do not tell."""
    _, text = files.read(path)
    host = recipes.host_of(text, path, chosen)
    try:
        config = host.read(text)
    except RecipeError as error:
        message = f"{path}: {host.title} would refuse the recipe: {'; '.join(error.problems)}. See `otr check {path}`"
        raise Failure(message, PROBLEM) from None
    reader = import_module(f"otr_plugin.command.memory.recipes.{host.name}")
    plan: TrainingPlan = reader.plan(recipes.recipe_of(text), path, config)
    if not plan.model:
        raise Failure(f"{path}: names no model: add the key for it", CANNOT_TELL)
    return plan
