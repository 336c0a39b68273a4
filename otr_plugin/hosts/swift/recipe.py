"""ms-swift's recipes: `loss_type: otr`, and settings as variables under `ENV:` or in the shell.

Imports neither torch nor ms-swift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from otr_plugin.config import OTRConfig, SettingsError
from otr_plugin.hosts.mentions import begins_with_otr, is_close_to, mentions_otr, nearest_setting, reads_as_setting
from otr_plugin.hosts.mistakes import COMMAND_LINE, ENVIRONMENT, duplicates, in_order_of_lines, no_mapping
from otr_plugin.hosts.own_objectives import OwnObjective
from otr_plugin.hosts.recipe_text import Entry, RecipeText, entries, kept, scalars
from otr_plugin.hosts.recipes import RecipeError, refuse
from otr_plugin.hosts.run_record import with_options

TRIED = ("4.6.0",)  # versions that the tests run
LOSS_TYPE = "otr"
VARIABLE = "OTR_"  # before the name of a setting, in capitals
VARIABLES = {f"{VARIABLE}{name.upper()}": name for name in OTRConfig.model_fields}
CONFIG_FILE = "SWIFT_CONFIG_FILE"  # the variable in which swift's command names the recipe
BLOCK = "ENV"  # of variables, in a recipe
HOW_TO_ASK = "ms-swift reads `loss_type: otr`, and settings as variables below `ENV:`, such as `OTR_SAMPLES: 16`"
IN_MEGATRON = "otr: Megatron's trainer computes its own loss, and the run would not train with OTR: run `swift sft`."
# Keys with which swift computes another loss, and the fix for each.
OTHER_LOSSES = {
    "rlhf_type": "run `swift sft`; preference and RL trainers have losses of their own",
    "enable_dft_loss": "set it to false; `OTR_OBJECTIVE: dft` is that loss, without whole logits",
    "enable_channel_loss": "set it to false: it takes every token's loss from whole logits",
    "label_smoothing_factor": "set it to 0: with label smoothing the trainer computes the loss",
}
OWN_OBJECTIVES = {"enable_dft_loss": OwnObjective("dft")}

# Keys of which one value leaves the loss to OTR; the values that do, and the fix for all others.
ONLY_VALUES: dict[str, tuple[tuple[Any, ...], str]] = {
    "task_type": (("causal_lm",), "set it to causal_lm: the others have losses of their own"),
    "tuner_backend": (("peft",), "set it to peft: Unsloth computes the loss without calling the model's head"),
    "sequence_parallel_size": ((1,), "set it to 1: sequence parallelism computes the loss from whole logits"),
    "acc_strategy": (
        ("token",),
        "set it to token: the other counts sequences whose tokens are all right, from whole logits",
    ),
}


def other_losses(arguments: Mapping[str, Any]) -> list[str]:
    """A problem for each argument, of a recipe or parsed, whose value makes swift compute the loss."""
    problems = []
    for key, (allowed, fix) in ONLY_VALUES.items():
        value = arguments.get(key)
        if value is not None and value not in allowed:
            problems.append(f"`{key}: {value}`: {fix}")
    return problems


def read_recipe(loss_type: Any, text: RecipeText, environment: Mapping[str, str]) -> OTRConfig | None:
    """Return the config of a recipe with OTR, and None for one without. Anything in between raises a RecipeError.

    `environment` is the shell's, with what swift has added to it from the recipe's ENV.
    """
    problems = [*problems_in_text(text), *_misspelt(environment, text)]
    names = loss_types(loss_type)
    wrong = [name for name in names if mentions_otr(name) and name != LOSS_TYPE]
    if wrong and not any(word in wrong for word, _ in _loss_types_in(text)):
        problems.append(f"{COMMAND_LINE}: `loss_type: {wrong[0]}`: write `loss_type: otr`")
    if LOSS_TYPE not in names:
        line = text.line_of("loss_type")
        if any(word == LOSS_TYPE for word, _ in _loss_types_in(text)):
            problems.append(
                f"{text.place(line)}: `loss_type: otr`, but {COMMAND_LINE} replaced it by {loss_type!r}, so the run "
                "would train without OTR: remove one"
            )
        unread = sorted(VARIABLES.keys() & environment.keys())
        if unread and not wrong:
            place = ", ".join(f"{_place(name, text)}: {name}" for name in unread)
            problems.append(
                f"{place}: but `loss_type: {loss_type}`, so the run would train without OTR: add `loss_type: otr`, or "
                "remove the setting"
            )
        refuse(problems)
        return None
    refuse(problems)
    return settings(environment, text)


def loss_types(loss_type: Any) -> list[Any]:
    """The recipe's `loss_type:`, which may be one name, a list, or missing."""
    return [loss_type] if isinstance(loss_type, str) else list(loss_type or [])


def settings(environment: Mapping[str, str], text: RecipeText | None = None) -> OTRConfig:
    """OTR's settings in the environment. Swift turns values under ENV into text."""
    try:
        return OTRConfig(**{name: environment[key] for key, name in VARIABLES.items() if key in environment})
    except SettingsError as error:
        raise RecipeError(
            [
                f"{_place(f'{VARIABLE}{name.upper()}', text)}: {problem}, as {VARIABLE}{name.upper()}"
                for name, problem in error.problems.items()
            ]
        ) from None


def set_in_the_shell(environment: Mapping[str, str], text: RecipeText) -> list[str]:
    """The settings, such as OTR_SAMPLES=16, that the recipe lacks under ENV or has with another value.

    The shell is the command line of swift's recipes: swift prefers its values.
    """
    in_file = {name: str(value) for name, value in text.block(BLOCK).items()}
    return [
        f"{name}={environment[name]}"
        for name in VARIABLES.keys() & environment.keys()
        if in_file.get(name) != environment[name]
    ]


def resolved_recipe(text: RecipeText, words: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """The recipe with what the command line and the shell have changed.

    `words` are those of the process that trains, to which swift's command passes the whole recipe as options; a
    program that calls swift's functions has other words, and then the file is the recipe.
    """
    recipe = dict(text.value) if isinstance(text.value, dict) else {}
    named = [key for key in recipe if key != BLOCK]
    if all(f"--{key}" in words for key in named):
        recipe = with_options(recipe, words)
    variables = text.block(BLOCK)
    shell = {name: environment[name] for name in (*variables, *VARIABLES) if name in environment}
    variables |= {name: value for name, value in shell.items() if value != str(variables.get(name))}
    return recipe | ({BLOCK: variables} if variables else {})


def problems_in_text(text: RecipeText) -> list[str]:
    """What mentions OTR in the file and would not be read as a person reads it."""
    if not isinstance(text.root, yaml.MappingNode):
        return no_mapping(text, HOW_TO_ASK)
    top = text.top()
    return in_order_of_lines([*_duplicates(text, top), *_stray_keys(text, top), *_values(text, top)], text)


def _duplicates(text: RecipeText, top: list[Entry]) -> list[str]:
    blocks = [entry for entry in top if entry.key in (BLOCK, "loss_type")]
    problems = []
    if any(mentions_otr(word) for entry in blocks for word, _ in scalars(entry.value)):
        problems += duplicates(text, blocks)
    for block in (entry for entry in blocks if entry.key == BLOCK):
        problems += duplicates(text, [entry for entry in entries(block.value) if begins_with_otr(entry.key)])
    return problems


def _stray_keys(text: RecipeText, top: list[Entry]) -> list[str]:
    """Keys that mention OTR and are not variables of ENV."""
    block = kept(top, BLOCK)
    variables = entries(block.value) if block else []
    problems = [
        f"{text.place(entry.line)}: `{entry.key}:`: {_spelling(entry.key)}"
        for entry in variables
        if begins_with_otr(entry.key) and entry.key not in VARIABLES
    ]
    used = {id(entry.value) for entry in variables}
    for entry in text.everywhere():
        mentions = mentions_otr(entry.key) if entry.at_the_top else reads_as_setting(entry.key)
        if mentions and id(entry.value) not in used:
            problems.append(f"{text.place(entry.line)}: `{entry.key}:`: {HOW_TO_ASK}")
    return problems


def _values(text: RecipeText, top: list[Entry]) -> list[str]:
    """`plugins: [otr]`, as other hosts spell it, and other spellings of the loss."""
    problems = []
    for entry in top:
        for word, line in scalars(entry.value):
            if not mentions_otr(word):
                continue
            if is_close_to(entry.key, "losstype") and (entry.key != "loss_type" or word != LOSS_TYPE):
                problems.append(f"{text.place(line)}: `{entry.key}: {word}`: write `loss_type: otr`")
            elif is_close_to(entry.key, "plugins"):
                problems.append(f"{text.place(line)}: `{entry.key}: {word}`: {HOW_TO_ASK}")
    return problems


def _misspelt(environment: Mapping[str, str], text: RecipeText) -> list[str]:
    in_file = text.block(BLOCK)
    return [
        f"{ENVIRONMENT}: {name}: {_spelling(name)}"
        for name in sorted(environment)
        if reads_as_setting(name) and name not in VARIABLES and name not in in_file
    ]


def _loss_types_in(text: RecipeText) -> list[tuple[str, int]]:
    entry = kept(text.top(), "loss_type")
    return list(scalars(entry.value)) if entry else []


def _spelling(name: str) -> str:
    nearest = nearest_setting(name)
    return f"write {VARIABLE}{nearest.upper()}" if nearest else f"the variables are {', '.join(VARIABLES)}"


def _place(name: str, text: RecipeText | None) -> str:
    if text is None or name not in text.block(BLOCK):
        return ENVIRONMENT
    return text.place(text.line_of(BLOCK, name))
