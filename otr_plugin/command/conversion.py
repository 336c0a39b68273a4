"""A recipe with OTR from one without, and back. Every result is read by the host's reader before anybody gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otr_plugin.command.console import PROBLEM, UNREADABLE, Failure
from otr_plugin.command.edits import MARKED, CannotEditError, Request, in_yaml, switched_off, switched_on, with_settings
from otr_plugin.command.recipes import RecipeHost, recipe_of
from otr_plugin.config import ROLLOUT_SETTINGS, OTRConfig, SettingsError
from otr_plugin.hosts.axolotl.recipe import OTHER_LOSS_PLUGINS, is_class_name, other_loss_plugins
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.recipes import OtherLossError, RecipeError, conflicts, named_plugins
from otr_plugin.hosts.swift.recipe import BLOCK, VARIABLES
from otr_plugin.hosts.trl.recipe import other_losses as other_losses_of_trl

PLACES = ("plugins", "otr", "loss_type", BLOCK)  # keys at the top in which a recipe has OTR

NOT_FINE_TUNING = "is not supervised fine-tuning, whose loss OTR replaces"


@dataclass
class Off:
    """A key, or a plugin, that selects another loss."""

    line: int | None
    name: str
    found: str
    fix: str
    becomes: str | None = None  # our setting in its place


@dataclass(frozen=True)
class Conversion:
    text: str
    off: list[Off]
    config: OTRConfig
    plain: str  # the same recipe without OTR, with the same lines switched off


def add(source: str, text: RecipeText, host: RecipeHost, settings: Mapping[str, Any]) -> Conversion:
    """The recipe with OTR; as it is if it has OTR with these settings. Raises Failure if it cannot be made."""
    try:
        found = host.read(text)
    except OtherLossError as error:
        raise _refused(text.name, "has OTR, and other losses that you have to switch off", error.conflicts) from None
    except RecipeError as error:
        raise _refused(
            text.name, "mentions OTR in a way that its host refuses; correct it first", error.problems
        ) from None
    try:
        if found is not None:
            return _changed(source, text, host, found, settings)
        return _converted(source, text, host, settings)
    except CannotEditError as error:
        raise _by_hand(text.name, str(error), host) from None


def remove(source: str, text: RecipeText, host: RecipeHost) -> str:
    """The recipe without OTR; as it is if it has none."""
    try:
        if host.read(text) is None and not MARKED.search(source):
            return source
    except OtherLossError:
        pass
    except RecipeError as error:
        raise _refused(
            text.name, "mentions OTR in a way that its host refuses; correct it first", error.problems
        ) from None
    try:
        result = switched_off(source, host.name == "swift", is_class_name)
        after = RecipeText(result, text.name)
        rest = _rest(text, set())
        if host.read(after) is not None or {k: v for k, v in _rest(after, set()).items() if k in rest} != rest:
            raise CannotEditError("the lines of OTR cannot be told from the others")
        return result
    except (CannotEditError, RecipeError) as error:
        message = f"{text.name}: cannot be edited: {error}. Remove OTR's lines by hand"
        raise Failure(message, PROBLEM) from None


def _config(settings: Mapping[str, Any]) -> OTRConfig:
    try:
        return OTRConfig(**settings)
    except SettingsError as error:
        raise Failure(f"--set: {'; '.join(error.problems.values())}", UNREADABLE) from None


def _changed(
    source: str, text: RecipeText, host: RecipeHost, found: OTRConfig, settings: Mapping[str, Any]
) -> Conversion:
    """A recipe that has OTR already, with other settings."""
    wanted = _config({name: getattr(found, name) for name in found.model_fields_set} | dict(settings))
    result = source if wanted == found else with_settings(source, host.name == "swift", settings)
    if host.read(RecipeText(result, text.name)) != wanted:
        raise CannotEditError("the new settings would not be read")
    return Conversion(result, [], wanted, remove(source, text, host))


def _converted(source: str, text: RecipeText, host: RecipeHost, settings: Mapping[str, Any]) -> Conversion:
    off = _other_losses(text, host)
    settings = {"objective": "otr"} | _own_objective(text, host, off, settings) | dict(settings)
    config = _config(settings)
    keys, plugins = [each.name for each in off if "." not in each.name], {each.name for each in off if "." in each.name}
    in_variables = host.name == "swift"
    result = switched_on(source, Request(in_variables, settings, keys, plugins.__contains__))
    after = RecipeText(result, text.name)
    try:
        read = host.read(after)
    except RecipeError as error:
        problems = error.conflicts if isinstance(error, OtherLossError) else error.problems
        raise _refused(text.name, "cannot train with OTR as it is", problems) from None
    if read != config or _rest(after, set()) != _rest(text, set(keys)):
        raise CannotEditError("an edit of single lines would change other keys")
    if switched_off(result, in_variables, is_class_name) != source:
        raise CannotEditError("`otr remove` could not restore it")
    plain = switched_on(source, Request(in_variables, None, keys, plugins.__contains__)) if off else source
    return Conversion(result, off, config, plain)


def _other_losses(text: RecipeText, host: RecipeHost) -> list[Off]:
    """What has to be switched off. Raises if the recipe then would not be one of supervised fine-tuning."""
    recipe = recipe_of(text)
    trainings = {key: host.other_losses[key] for key in host.other_losses if key in host.other_trainings}
    if problems := conflicts(recipe, trainings, text):
        raise _refused(text.name, NOT_FINE_TUNING, problems)
    off = [
        Off(text.line_of(key), key, in_yaml(recipe[key]), fix)
        for key, fix in host.other_losses.items()
        if recipe.get(key) and key not in trainings
    ]
    if host.name == "trl":
        problems = other_losses_of_trl({"loss_type": recipe.get("loss_type")})
        line, found = text.line_of("loss_type"), in_yaml(recipe.get("loss_type"))
        off += [Off(line, "loss_type", found, problem.split("`: ")[-1]) for problem in problems]
    if host.name == "axolotl":
        rest = {key: value for key, value in recipe.items() if key not in {each.name for each in off}}
        for name in named_plugins(rest):
            if problems := other_loss_plugins(rest | {"plugins": [name]}):
                key, fix = OTHER_LOSS_PLUGINS[str(name).rsplit(".", 1)[-1]]
                if key is None:
                    raise _refused(text.name, NOT_FINE_TUNING, problems)
                off.append(Off(text.line_of("plugins"), str(name), "under plugins", fix))
    return sorted(off, key=lambda each: each.line or 0)


def _own_objective(text: RecipeText, host: RecipeHost, off: list[Off], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the host's own objective that the recipe has, with which it goes on to train the same.

    Empty if the caller's settings are of another objective. Adds to `off` what these settings replace.
    """
    if "objective" in settings or settings.keys() & set(ROLLOUT_SETTINGS):
        return {}
    recipe = recipe_of(text)
    for each in off:
        own = host.own_objectives.get(each.found if host.name == "trl" else each.name)
        if own is None:
            continue
        each.becomes = f"objective: {own.name}"
        if own.alpha in recipe:
            alpha = own.settings(recipe)["alpha"]
            off.append(Off(text.line_of(own.alpha), own.alpha, in_yaml(alpha), "remove it", f"alpha: {alpha}"))
        return own.settings(recipe)
    return {}


def _rest(text: RecipeText, without: set[str]) -> dict[str, str]:
    """The values of all keys that have nothing to do with OTR. As text: a NaN is not equal to itself."""
    found = recipe_of(text)
    rest = {str(key): repr(value) for key, value in found.items() if key not in without and key not in PLACES}
    variables = found.get(BLOCK)
    if isinstance(variables, Mapping):
        rest |= {f"{BLOCK}.{name}": repr(value) for name, value in variables.items() if name not in VARIABLES}
    return rest


def _refused(name: str, summary: str, problems: list[str]) -> Failure:
    return Failure("\n  ".join((f"{name} {summary}:", *problems)), PROBLEM)


def _by_hand(name: str, reason: str, host: RecipeHost) -> Failure:
    lines = "`loss_type: otr`" if host.name == "swift" else "`plugins: [otr]`"
    return Failure(
        f"{name}: cannot be edited: {reason}. Add {lines} by hand; `otr check {name}` then checks it", PROBLEM
    )
