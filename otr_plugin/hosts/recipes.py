"""What a recipe says about OTR: the config to train with, no OTR at all, or a RecipeError.

A run under OTR's name is OTR, with the settings that a person reads in the recipe; a run without it is not. Whatever
mentions OTR in a recipe, on a command line or in the environment therefore ends in the active config, or in an error.

Imports neither torch nor a host: start.py of every host uses it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import Any

import yaml

from otr_plugin.config import OTRConfig, SettingsError
from otr_plugin.hosts.mentions import SETTINGS_KEY, is_plugin_name, mentions_otr
from otr_plugin.hosts.mistakes import (
    COMMAND_LINE,
    Host,
    advice,
    is_dotted_setting,
    problem_with_plugin,
    problems_in_environment,
    problems_in_text,
    runs_as,
)
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.patching import is_traced
from otr_plugin.hosts.recipe_text import RecipeText, kept, scalars

PROGRAMS = ("axolotl", "llamafactory", "llamafactory-cli", "lmf", "trl", "swift")  # the hosts' packages and commands


class RecipeError(ValueError):
    """A recipe that mentions OTR in a way that would not train what a person reads there."""

    def __init__(self, problems: Sequence[str]) -> None:
        problems = list(dict.fromkeys(problems))
        one = len(problems) == 1
        super().__init__(f"otr: {problems[0]}" if one else "\n  ".join((f"otr: {len(problems)} problems", *problems)))
        self.problems = problems
        if runs_as(*PROGRAMS) and sys.excepthook is sys.__excepthook__:
            sys.excepthook = _show_message_only


class OtherLossError(RecipeError):
    """A recipe with OTR that also selects another loss; `conflicts` has one message for each key that does."""

    def __init__(self, switched_on_by: str, conflicts: Sequence[str]) -> None:
        super().__init__([_other_loss(switched_on_by, "; ".join(conflicts))])
        self.conflicts = list(conflicts)


def _show_message_only(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """In a host's own command, a user needs the message, not the host's stack. OTR_PLUGIN_TRACE=1 shows both."""
    if isinstance(error, RecipeError) and not is_traced():
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def read_recipe(
    host: Host,
    recipe: Mapping[str, Any],
    text: RecipeText,
    *,
    overrides: Mapping[str, Any] | None = None,
    is_otr: Callable[[Any], bool] = is_plugin_name,
) -> OTRConfig | None:
    """Return the config of a recipe with OTR, and None for one without. Anything in between raises a RecipeError.

    `recipe` is what the host has parsed, its command line included; `text` is the file; `overrides` are settings from
    the command line that are not in `recipe`; `is_otr` decides whether a name under `plugins:` is this plugin.
    """
    problems = [*problems_in_text(text, host, is_otr), *problems_in_environment(host)]
    elsewhere = _elsewhere(text)
    written = {entry.key for entry in text.top()}
    problems += [
        f"{elsewhere}: `{key}`: {advice(key)}"
        for key in map(str, recipe)
        if key not in written and key != SETTINGS_KEY and mentions_otr(key) and not is_dotted_setting(key, host)
    ]
    names = named_plugins(recipe)
    if not problems:
        wrong = (problem_with_plugin(name, host, is_otr) for name in names)
        problems += [f"{elsewhere}: {problem}" for problem in wrong if problem]
    refuse(problems)  # before the rest, which they may have caused
    if not any(map(is_otr, names)):
        problems += _mentions_without_plugin(recipe, text, overrides, names, is_otr)
        refuse(problems)
        return None
    if len([name for name in names if is_otr(name)]) > 1:
        problems.append(f"{text.place(text.line_of('plugins'))}: `plugins: {names}` names otr twice: name it once")
    others = [name for name in names if not is_otr(name)]
    if others and not host.has_plugins:
        problems.append(
            f"{text.place(text.line_of('plugins'))}: the recipe has {others} under `plugins:`, but the only plugin in "
            f"{host.name} is otr: remove them"
        )
    refuse(problems)
    config = _read_settings(host, recipe, text, overrides or {})
    problems = [*conflicts(recipe, host.other_losses, text, host.own_objectives), *host.other_problems(recipe)]
    refuse_conflicts(problems)
    return config


def refuse(problems: Sequence[str]) -> None:
    if problems:
        raise RecipeError(problems)


def named_plugins(recipe: Mapping[str, Any]) -> list[Any]:
    """The recipe's `plugins:`, which may be one name, a list, or missing."""
    named = recipe.get("plugins") or []
    return list(named) if isinstance(named, list | tuple) else [named]


def names_otr(recipe: Mapping[str, Any]) -> bool:
    return any(map(is_plugin_name, named_plugins(recipe)))


def asks_for_otr(recipe: Any) -> bool:
    """Whether a recipe names the plugin, or has settings for it."""
    return isinstance(recipe, Mapping) and (SETTINGS_KEY in recipe or names_otr(recipe))


def _read_settings(host: Host, recipe: Mapping[str, Any], text: RecipeText, overrides: Mapping[str, Any]) -> OTRConfig:
    block = recipe.get(SETTINGS_KEY)
    if block is None:
        block = {}
    if not isinstance(block, Mapping):
        place = text.place(text.line_of(SETTINGS_KEY))
        raise RecipeError([f"{place}: `otr:` should hold settings, such as `samples: 256`, but it holds {block!r}"])
    in_file = text.block(SETTINGS_KEY)
    lost = [key for key, value in in_file.items() if key not in map(str, block) and value is not None]
    refuse([_dropped(key, text) for key in lost])
    settings = {str(key): value for key, value in block.items()}
    settings |= {key.split(".", 1)[1]: value for key, value in recipe.items() if is_dotted_setting(str(key), host)}
    settings |= overrides
    try:
        return OTRConfig(**settings)
    except SettingsError as error:
        raise RecipeError(
            [f"{_place_of_setting(key, settings, in_file, text)}: {problem}" for key, problem in error.problems.items()]
        ) from None


def _dropped(key: str, text: RecipeText) -> str:
    return (
        f"{text.place(text.line_of(SETTINGS_KEY, key))}: `{key}` was dropped when {COMMAND_LINE} replaced the whole "
        f"block `otr:`: replace single settings, as in `--otr.{key} VALUE`"
    )


def _place_of_setting(key: str, settings: Mapping[str, Any], in_file: Mapping[str, Any], text: RecipeText) -> str:
    if key in in_file and (key not in settings or _same(in_file[key], settings[key])):
        return text.place(text.line_of(SETTINGS_KEY, key))
    if any(entry.key == f"{SETTINGS_KEY}.{key}" for entry in text.top()):
        return text.place(text.line_of(f"{SETTINGS_KEY}.{key}"))
    return _elsewhere(text)


def _same(in_file: Any, parsed: Any) -> bool:
    """Whether the host has parsed what is in the file: OmegaConf reads 1e-05 as a number, PyYAML as text."""
    try:
        return str(in_file) == str(parsed) or float(in_file) == float(parsed)
    except (TypeError, ValueError, OverflowError):
        return isinstance(in_file, dict | list) and type(in_file) is type(parsed)


def _elsewhere(text: RecipeText) -> str:
    """Where a key comes from that is not in the file. Without a file, a program has passed the keys to the host."""
    return COMMAND_LINE if text.root is not None else "the arguments"


def _mentions_without_plugin(
    recipe: Mapping[str, Any],
    text: RecipeText,
    overrides: Mapping[str, Any] | None,
    names: list[Any],
    is_otr: Callable[[Any], bool],
) -> list[str]:
    """What the recipe says about OTR although the parsed recipe does not name the plugin."""
    plugins = kept(text.top(), "plugins")
    if plugins and any(is_otr(word) for word, _ in scalars(plugins.value)):
        message = (
            f"{text.place(plugins.line)}: `plugins:` names otr, but {COMMAND_LINE} replaced the list by {names}, so "
            "the run would train without OTR: name otr there too, or remove it from the recipe"
        )
        return [message]
    keys = [key for key in map(str, recipe) if key == SETTINGS_KEY or key.startswith(f"{SETTINGS_KEY}.")]
    written = {entry.key for entry in text.top()}
    if overrides:
        return [unread_settings(f"--{SETTINGS_KEY}.{next(iter(overrides))}", names, COMMAND_LINE)]
    if any(recipe[key] is not None or key in written for key in keys):
        line = text.line_of(keys[0])
        return [unread_settings(f"{keys[0]}:", names, _elsewhere(text) if line is None else text.place(line))]
    return []


def unread_settings(setting: str, names: list[Any], place: str) -> str:
    """The message for settings without the plugin."""
    return (
        f"{place}: `{setting}` is a setting of OTR, but `plugins:` ({names}) does not name otr, so the run would "
        "ignore the setting and train without OTR. Add `plugins: [otr]`, or remove the setting"
    )


def conflicts(
    recipe: Mapping[str, Any],
    keys: Mapping[str, str],
    text: RecipeText | None = None,
    own_objectives: Mapping[str, OwnObjective] | None = None,
) -> list[str]:
    """One message for each of `keys` that the recipe sets; `keys` maps a key to the fix.

    The fix of one of `own_objectives` gets the recipe's values.
    """
    problems = []
    for key, fix in keys.items():
        if recipe.get(key):
            line = text.line_of(key) if text else None
            place = f"{text.place(line)}: " if text and line else ""
            if own_objectives and key in own_objectives:
                fix = own_objectives[key].with_values(fix, recipe)
            problems.append(f"{place}`{key}: {_as_written(recipe[key])}`: {fix}")
    return problems


def _as_written(value: Any) -> str:
    """The value as YAML, with quotes around text that YAML would read as something else, such as 'false'."""
    return repr(value) if isinstance(value, str) and yaml.safe_load(value) != value else str(value)


def refuse_conflicts(problems: list[str], switched_on_by: str = "`plugins: [otr]`") -> None:
    """Raise if the recipe selects a loss other than OTR's, because the run would then train something else."""
    if problems:
        raise OtherLossError(switched_on_by, problems)


def _other_loss(switched_on_by: str, problems: str) -> str:
    return (
        f"{switched_on_by} trains with One-Token Rollout, but this recipe also selects another loss, and the run would "
        f"not train with OTR. {problems}."
    )


def untried_version(package: str, tried: tuple[str, ...]) -> str | None:
    """A warning if the installed version is not among those that OTR was tested with."""
    found = version(package)
    if found in tried:
        return None
    return (
        f"otr: tested with {package} {', '.join(tried)}; {found} is installed. On the first step OTR compares its loss "
        "with the model's own, and stops if they differ."
    )
