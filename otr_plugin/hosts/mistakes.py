"""What mentions OTR in a recipe, on a command line or in the environment, and would not be read as a person reads it.

Hosts drop what they cannot read: unknown keys, all but the last of duplicate keys, arguments of other programs. Each
function returns a message for each mention of OTR that a host would drop or read in another way: where it is, what it
is, and what to write instead.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from otr_plugin.config import OTRConfig
from otr_plugin.hosts.mentions import (
    SETTINGS_KEY,
    begins_with_otr,
    is_close_to,
    is_plugin_name,
    mentions_otr,
    nearest_setting,
    reads_as_setting,
    setting_meant_by,
)
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.recipe_text import Entry, RecipeText, entries, is_empty, kept, nodes, scalars, value_of

HOW_TO_ASK = "the plugin is named by `plugins: [otr]`, and its settings are indented below `otr:`, both at the top"
COMMAND_LINE, ENVIRONMENT = "the command line", "the environment"
# Words in a key whose value selects how a host trains, so that the value `otr` there is meant as OTR.
SELECTING_WORDS = ("loss", "trainer", "objective", "method", "algorithm", "rl", "plugin")


@dataclass(frozen=True)
class Host:
    """How a host reads `plugins:` and `otr:`."""

    name: str
    other_losses: Mapping[str, str]  # keys with which it computes another loss, and the fix for each
    has_plugins: bool = False  # whether `plugins:` may name others than otr
    own_keys: tuple[str, ...] = ()  # keys of its own that read as one of OTR's
    dotted_keys: bool = False  # whether `otr.samples: 16` at the top is a setting
    own_objectives: Mapping[str, OwnObjective] = field(default_factory=dict)  # keys whose loss OTR has, too
    other_problems: Callable[[Mapping[str, Any]], list[str]] = field(default=lambda recipe: [])


def problems_in_text(text: RecipeText, host: Host, is_otr: Callable[[Any], bool] = is_plugin_name) -> list[str]:
    """What mentions OTR in the file and would not be read as a person reads it."""
    if text.root is None:
        return []
    if not isinstance(text.root, yaml.MappingNode):
        return no_mapping(text, HOW_TO_ASK)
    top = text.top()
    read = [entry for key in ("plugins", SETTINGS_KEY) if (entry := kept(top, key)) is not None]
    read += [entry for entry in top if entry.merged and entry.key in ("plugins", SETTINGS_KEY)]
    used = {id(node) for entry in read for node in nodes(entry.value)}
    problems = [
        *_duplicates(text, top),
        *_stray_keys(text, host, used),
        *_plugins(text, top, host, is_otr),
        *_selected_elsewhere(text, top),
        *_not_indented(text, top, host),
        *_misspelt_block(text, top, host),
    ]
    return in_order_of_lines(problems, text)


def no_mapping(text: RecipeText, how: str) -> list[str]:
    """A problem if a file without keys and values mentions OTR; `how` is how a recipe switches OTR on."""
    found = [line for word, line in scalars(text.root) if mentions_otr(word)]
    return [f"{text.place(line)}: the recipe should consist of keys and values: {how}" for line in found[:1]]


def in_order_of_lines(problems: list[str], text: RecipeText) -> list[str]:
    return sorted(problems, key=lambda problem: int(problem.removeprefix(f"{text.name}:").split(":")[0]))


def _duplicates(text: RecipeText, top: list[Entry]) -> list[str]:
    """Keys that are written twice, or merged and then written again with another value."""
    about_otr = any(map(_is_about_otr, top))
    problems = []
    for key, found in _by_key(top).items():
        if (mentions_otr(key) or is_close_to(key, "plugins")) and (about_otr or any(map(_is_about_otr, found))):
            problems += _differing(text, found)
    for block in (entry for entry in top if entry.key == SETTINGS_KEY):
        problems += duplicates(text, entries(block.value))
    return problems


def duplicates(text: RecipeText, found: list[Entry]) -> list[str]:
    """A problem for each key that is written twice, or merged and then written again with another value."""
    return [problem for same in _by_key(found).values() for problem in _differing(text, same)]


def _by_key(found: list[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        groups.setdefault(entry.key, []).append(entry)
    return groups


def _differing(text: RecipeText, found: list[Entry]) -> list[str]:
    own = [entry for entry in found if not entry.merged]
    if len(own) > 1:
        return [
            f"{text.place(own[-1].line)}: `{own[-1].key}` is also on line {own[0].line}, and YAML keeps one: keep one"
        ]
    first, *others = found
    different = [entry for entry in others if value_of(entry.value) != value_of(first.value)]
    return [
        f"{text.place(first.line)}: `{first.key}` replaces the other value that `<<` merges from line {entry.line}: "
        "keep one"
        for entry in different[:1]
    ]


def _is_about_otr(entry: Entry) -> bool:
    if mentions_otr(entry.key):
        return True
    return is_close_to(entry.key, "plugins") and any(mentions_otr(word) for word, _ in scalars(entry.value))


def _stray_keys(text: RecipeText, host: Host, used: set[int]) -> list[str]:
    """Keys that mention OTR and are none of its keys, or not where the host reads them."""
    problems = []
    for entry in text.everywhere():
        place = f"{text.place(entry.line)}: `{entry.key}:`"
        if id(entry.value) in used:  # an anchor that the plugin's keys refer to
            continue
        if entry.at_the_top:
            if mentions_otr(entry.key) and entry.key != SETTINGS_KEY and not is_dotted_setting(entry.key, host):
                problems.append(f"{place}: {advice(entry.key)}")
        elif entry.around[0] != SETTINGS_KEY and not is_close_to(entry.around[0], "plugins"):
            if reads_as_setting(entry.key):
                problems.append(f"{place} below `{entry.around[-1]}:`: {advice(entry.key)}")
            elif _is_about_otr(entry) and is_close_to(entry.key, "plugins"):
                problems.append(f"{place} below `{entry.around[-1]}:`: {HOW_TO_ASK}")
    return problems


def _plugins(text: RecipeText, top: list[Entry], host: Host, is_otr: Callable[[Any], bool]) -> list[str]:
    """Names under `plugins:` that are meant as OTR and are not its name."""
    problems = []
    for entry in top:
        if entry.key == "plugins":
            items = entry.value.value if isinstance(entry.value, yaml.SequenceNode) else [entry.value]
            for item in items:
                if not (is_empty(item) and item is entry.value):
                    problem = problem_with_plugin(value_of(item), host, is_otr)
                    problems += [f"{text.place(item.start_mark.line + 1)}: {problem}"] if problem else []
        elif is_close_to(entry.key, "plugins") and _is_about_otr(entry):
            problems.append(f"{text.place(entry.line)}: `{entry.key}:` should be `plugins:`")
    return problems


def problem_with_plugin(name: Any, host: Host, is_otr: Callable[[Any], bool]) -> str | None:
    """What is wrong with one item of `plugins:`, if it is meant as OTR or is no name at all."""
    if not isinstance(name, str):
        return f"`plugins:` should be a list of names, such as `[otr]`, but it has {name!r}"
    if mentions_otr(name) and not is_otr(name) and not _may_be_another(name, host):
        return f"`{name}` under `plugins:` is not this plugin: write `otr`"
    return None


def _may_be_another(name: str, host: Host) -> bool:
    """Whether the name may be a plugin of somebody else's, such as `my.otr_tools.Plugin`. If not, it does not load."""
    return host.has_plugins and "." in name and not begins_with_otr(name)


def _selected_elsewhere(text: RecipeText, top: list[Entry]) -> list[str]:
    """`loss_type: otr` and the like, which is how another host spells it, or none."""
    return [
        f"{text.place(line)}: `{entry.key}: {word}` does not switch OTR on here: {HOW_TO_ASK}"
        for entry in top
        if not is_close_to(entry.key, "plugins")
        and set(re.split(r"[^a-z]+", entry.key.casefold())) & set(SELECTING_WORDS)
        for word, line in scalars(entry.value)
        if mentions_otr(word)
    ]


def _not_indented(text: RecipeText, top: list[Entry], host: Host) -> list[str]:
    """Settings at the top that were meant to be below `otr:`."""
    own = [entry for entry in top if not entry.merged]
    keys = [entry.key for entry in own]
    if not any(map(_is_about_otr, own)):
        return []
    block = own[keys.index(SETTINGS_KEY)] if SETTINGS_KEY in keys else None
    problems = []
    follows = False  # whether nothing but settings stands between `otr:` and the entry
    for entry in own:
        setting = setting_meant_by(entry.key)
        meant = setting is not None and (entry.key not in host.own_keys or follows)
        follows = (entry is block and is_empty(entry.value)) or (follows and setting is not None)
        if meant:
            odd = " (those before it are other characters, as on web pages)" if entry.key != entry.key.strip() else ""
            problems.append(
                f"{text.place(entry.line)}: `{entry.key.strip()}:` is not below `otr:`: indent it by two spaces{odd}"
            )
        elif entry is not block and block is not None and entry.key != entry.key.strip() and entry.line > block.line:
            problems.append(
                f"{text.place(entry.line)}: `{entry.key.strip()}:` is not below `otr:`: indent it by spaces"
            )
    return problems


def _misspelt_block(text: RecipeText, top: list[Entry], host: Host) -> list[str]:
    """A block of nothing but settings under a name that is nearly `otr`, in a recipe that names the plugin."""
    if not any(map(_is_about_otr, top)):
        return []
    return [
        f"{text.place(entry.line)}: `{entry.key}:` holds settings of OTR: write `otr:`"
        for entry in top
        if not mentions_otr(entry.key)
        and entry.key not in host.own_keys
        and is_close_to(entry.key, SETTINGS_KEY, 0.6)
        and (inside := entries(entry.value))
        and all(each.key in OTRConfig.model_fields for each in inside)
    ]


def advice(name: str) -> str:
    """What to write in place of a name that mentions OTR."""
    if nearest := nearest_setting(name):
        return f"write `{nearest}:` below `otr:`"
    return HOW_TO_ASK


# The command line and the environment


# `--otr.top-k 16`; Axolotl writes it as `--otr--top-k=16` for the processes that it starts.
OPTIONS = rf"--otr(\.|__|--)({'|'.join(name.replace('_', '[_-]') for name in OTRConfig.model_fields)})"


def problems_in_arguments(arguments: Sequence[str], allowed: str | None = OPTIONS) -> list[str]:
    """Options that mention OTR and do not match `allowed`, a regular expression; with None, no such option exists."""
    problems = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, _ = word.partition("=")
        if not option.startswith("-") and not equals:
            continue
        name = option.lstrip("-")
        if begins_with_otr(name) and not (allowed and re.fullmatch(allowed, option)):
            instead = f"write `--otr.{nearest_setting(name) or 'samples'} VALUE`" if allowed else HOW_TO_ASK
            problems.append(f"{COMMAND_LINE}: `{option}`: {instead}")
        elif name != "plugins" and is_close_to(name, "plugins") and mentions_otr(word.partition("=")[2] or following):
            problems.append(f"{COMMAND_LINE}: `{option}`: {HOW_TO_ASK} of the recipe")
    return problems


def problems_in_environment(host: Host) -> list[str]:
    """Variables that read as settings. Only ms-swift's users set them so."""
    return [
        f"{ENVIRONMENT}: {name}={os.environ[name]}: {host.name} does not read it: {advice(name)} of the recipe, and "
        f"unset {name}"
        for name in sorted(os.environ)
        if reads_as_setting(name)
    ]


def runs_as(*programs: str) -> bool:
    """Whether this process was started as one of these commands or as a module of these packages."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    package = main.name.split(".")[0] if main else ""
    return package in programs or Path(sys.argv[0] if sys.argv else "").name in programs


def is_dotted_setting(key: str, host: Host) -> bool:
    """Whether the key is `otr.` and something; a sweep of Axolotl's over `otr.samples` writes such keys."""
    return host.dotted_keys and key.startswith(f"{SETTINGS_KEY}.")
