"""What people do to a recipe with OTR, or to one without it, and what they then expect.

A mutation changes a draft and states its outcome by construction: it changes the expected settings, or what an error
has to name. `touches` are the parts of the recipe that it changes; two mutations of one recipe change different parts.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from benchmarks.fuzz.document import Mapping, Pair, Scalar, Sequence, TextBlock, node_of, plain, raw
from benchmarks.fuzz.recipes import ALWAYS_USED, ANY_VALUE, TEXT_KEYS, TEXTS, VALUES, Draft
from otr_plugin.config import OTRConfig

PLUGIN_HOSTS = ("axolotl", "llamafactory", "trl")
ALL = (*PLUGIN_HOSTS, "swift")
SWITCH, BLOCK, COMMAND, VARIABLES = "switch", "block", "command", "variables"
SPACES = ("\u00a0", "\u2003", "\u3000", "\u202f", "\u2009", "\u1680", "\u200b")
DOUBLES = {
    "o": "\u043e\u03bf\uff4f",
    "t": "\uff54\u0442",
    "r": "\uff52\u0433",
    "p": "\u0440\uff50",
    "s": "\u0455",
    "a": "\u0430",
}
DOUBLES |= {"e": "\u0435", "l": "\uff4c\u04cf", "i": "\u0456", "n": "\uff4e"}
LIGER = "axolotl.integrations.liger.LigerPlugin"
SETTINGS = tuple(OTRConfig.model_fields)


@dataclass(frozen=True)
class Mutation:
    name: str
    apply: Callable[[Draft], None]
    touches: frozenset[str]
    hosts: tuple[str, ...]
    with_otr: bool  # whether it changes a recipe with OTR, or one without it
    harmless: bool


MUTATIONS: list[Mutation] = []


def mutation(
    *touches: str,
    hosts: tuple[str, ...] = PLUGIN_HOSTS,
    with_otr: bool = True,
    without_otr: bool = False,
    harmless: bool = False,
) -> Callable[[Callable[[Draft], None]], Callable[[Draft], None]]:
    """Adds the function to MUTATIONS under its own name."""

    def add(function: Callable[[Draft], None]) -> Callable[[Draft], None]:
        for kind in [True] * with_otr + [False] * without_otr:
            MUTATIONS.append(Mutation(function.__name__, function, frozenset(touches), hosts, kind, harmless))
        return function

    return add


def misspelt(draft: Draft, word: str) -> str:
    """The word with one letter left out, doubled or exchanged for the next."""
    place = draft.pick(range(len(word) - 1))
    kind = draft.pick(["left out", "doubled", "exchanged"])
    if kind == "left out":
        return word[:place] + word[place + 1 :]
    if kind == "doubled":
        return word[: place + 1] + word[place:]
    wrong = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    return wrong if wrong != word else word[: place + 1] + word[place:]


def look_alike(draft: Draft, word: str) -> str:
    """The word with a letter of another alphabet, or with a character that is not seen."""
    if draft.chance(25):
        return str(draft.pick([f"{word}\u200b", f"{word[0]}\u200b{word[1:]}", f"{word}\u00a0", f"\ufeff{word}"]))
    place = draft.pick([i for i, letter in enumerate(word) if letter in DOUBLES])
    double: str = draft.pick(DOUBLES[word[place]])
    return word[:place] + double + word[place + 1 :]


def seen(word: str) -> tuple[str, ...]:
    """How a message may show a word with characters that are easily mistaken."""
    codes = [f"U+{ord(letter):04X}" for letter in word if not letter.isascii()]
    return word, ascii(word)[1:-1], repr(word)[1:-1], *codes


def a_setting(draft: Draft) -> Pair:
    draft.need_block()
    pair: Pair = draft.pick(draft.setting_pairs())
    return pair


def setting_of(draft: Draft, pair: Pair) -> str:
    return pair.name.removeprefix("OTR_").lower() if draft.host.reads_variables else pair.name


def block_of(draft: Draft) -> Mapping:
    value = draft.need_block().value
    assert isinstance(value, Mapping)
    return value


# Other spellings of the same recipe


@mutation(BLOCK, hosts=ALL, harmless=True)
def anchor_and_alias(draft: Draft) -> None:
    """`samples: &n 16`, `top_k: *n`."""
    assert draft.settings is not None
    block = block_of(draft)
    for name in ("chunk_tokens", "top_k", "samples"):
        draft.settings.pop(name, None)
        for pair in [p for p in block.pairs if p.name == draft.setting_name(name)]:
            block.remove(pair)
    both = ["chunk_tokens", "samples"]
    if draft.settings.get("objective", "otr") != "otr" or draft.settings.get("estimator", "sampled") != "sampled":
        both = ["chunk_tokens"]
    number = draft.pick([2, 16, 300])
    for i, name in enumerate(both):
        draft.settings[name] = number
        block.pairs.append(Pair(draft.setting_name(name), Scalar(number, "*n" if i else f"&n {number}")))
    draft.raw_yaml()


@mutation(BLOCK, hosts=ALL, harmless=True)
def merged_settings(draft: Draft) -> None:
    """`<<: {samples: 16}` below `otr:`."""
    block = block_of(draft)
    pair = a_setting(draft)
    block.remove(pair)
    block.pairs.insert(draft.pick([0, len(block.pairs)]), Pair("<<", Mapping([pair], flow=draft.chance(50)), "<<"))
    draft.raw_yaml()


@mutation(SWITCH, BLOCK, hosts=ALL, harmless=True)
def merged_at_the_top(draft: Draft) -> None:
    """`<<: {plugins: [otr], otr: {…}}` at the top level."""
    pairs = [draft.document[name] for name in (draft.switch.name, draft.block_name) if name in draft.document]
    moved = [pair for pair in pairs if draft.chance(60)] or pairs[:1]
    for pair in moved:
        draft.document.remove(pair)
    place = draft.pick([0, len(draft.document.pairs)])
    draft.document.pairs.insert(place, Pair("<<", Mapping(moved), "<<"))
    draft.raw_yaml()


@mutation(BLOCK, hosts=("axolotl",), harmless=True)
def merged_from_an_anchor(draft: Draft) -> None:
    """`my_notes: &s {samples: 16}`, and `<<: *s` below `otr:`. Axolotl ignores the first key."""
    block, pair = block_of(draft), a_setting(draft)
    block.remove(pair)
    draft.document.pairs.insert(0, Pair("my_notes", Mapping([pair], tag="&s")))
    block.pairs.insert(0, Pair("<<", Scalar(None, "*s"), "<<"))
    draft.raw_yaml()


@mutation(COMMAND, hosts=PLUGIN_HOSTS, harmless=True)
def option(draft: Draft) -> None:
    """A setting on the command line."""
    assert draft.settings is not None
    name = draft.pick(ALWAYS_USED)
    value = draft.draw(VALUES[name])
    text = "none" if value is None else str(value)
    draft.overrides[name] = value
    if draft.host.name == "llamafactory":
        draft.command.append(f"otr.{name}={text}")
        return
    key = f"--otr.{name.replace('_', '-') if draft.host.name == 'axolotl' or draft.chance(50) else name}"
    draft.command += [f"{key}={text}"] if draft.chance(50) or text.startswith("-") else [key, text]


@mutation(COMMAND, BLOCK, hosts=("axolotl", "trl"), harmless=True)
def option_none(draft: Draft) -> None:
    """`--otr.top-k none` is null, and `--otr.baseline none` is the baseline of that name."""
    assert draft.settings is not None
    name = draft.pick(["top_k", "baseline"])
    word = draft.pick(["none", "null"]) if name == "top_k" else "none"
    draft.overrides[name] = None if name == "top_k" else "none"
    key = f"--otr.{name.replace('_', '-')}"
    draft.command += [f"{key}={word}"] if draft.chance(50) else [key, word]


@mutation(VARIABLES, hosts=("swift",), harmless=True)
def setting_in_the_shell(draft: Draft) -> None:
    """The shell overrides the file."""
    name = draft.pick(ALWAYS_USED)
    value = draft.draw(VALUES[name])
    draft.environment[f"OTR_{name.upper()}"] = str(value)
    draft.overrides[name] = value


@mutation(COMMAND, hosts=("axolotl",), harmless=True)
def sweep(draft: Draft) -> None:
    assert draft.settings is not None
    name = draft.pick(ALWAYS_USED)
    value = draft.draw(VALUES[name])
    draft.overrides[name] = value
    draft.sweep = f"otr.{name}: [{json.dumps(value)}]\n"


@mutation(COMMAND, hosts=("axolotl",))
def sweep_over_an_unknown_setting(draft: Draft) -> None:
    name = misspelt(draft, draft.pick(SETTINGS))
    draft.sweep = f"otr.{name}: [3]\n"
    draft.refuse(name)


@mutation(COMMAND, hosts=("axolotl",), with_otr=False, without_otr=True)
def sweep_without_otr(draft: Draft) -> None:
    draft.sweep = "otr.samples: [3]\n"
    draft.refuse("otr")


@mutation(SWITCH, COMMAND, hosts=("axolotl", "llamafactory"), harmless=True, with_otr=False, without_otr=True)
def switched_on_by_the_command_line(draft: Draft) -> None:
    """Some hosts have a way to name a plugin on the command line; elsewhere it is an error."""
    draft.settings = {}
    draft.or_refused = True
    draft.command += ["plugins=[otr]"] if draft.host.name == "llamafactory" else ["--plugins", "otr"]


@mutation(SWITCH, COMMAND, hosts=("swift",), harmless=True, with_otr=False, without_otr=True)
def loss_type_on_the_command_line(draft: Draft) -> None:
    draft.settings = {}
    draft.command += ["--loss_type", "otr"]


# The plugin's name


@mutation(SWITCH)
def wrong_plugin_name(draft: Draft) -> None:
    name = draft.pick(
        [
            "OTR",
            "Otr",
            "otr_plugin",
            "otr-plugin",
            "otr_plugin.OTR",
            "otr.Plugin",
            "otr.OTRPlugin",
            "otr_plugin.otr",
            "otr_plugin.OTRplugin",
            "otr_plugin.hosts.axolotl.OTRPlugin",
            "axolotl.integrations.otr.OTRPlugin",
            "OTRPlugin",
            "otr_plugin.hosts.recipes",
            "otr_plugin.OTRConfig",
            "otr_plugin.attach",
            "otr:",
            "[otr]",
            "otr,",
            ".otr",
            "otr.",
        ]
    )
    pair = draft.switch
    pair.value = Sequence([Scalar(name)]) if draft.chance(70) else Scalar(name)
    draft.refuse(name, at=(pair,))


@mutation(SWITCH)
def look_alike_plugin_name(draft: Draft) -> None:
    name = draft.pick([look_alike(draft, "otr"), look_alike(draft, "otr_plugin.OTRPlugin"), "otr ", " otr", "otr\n"])
    pair = draft.switch
    scalar = Scalar(name, json.dumps(name, ensure_ascii=False) if name.isascii() or draft.chance(50) else name)
    pair.value = Sequence([scalar]) if draft.chance(70) else scalar
    draft.refuse((*seen(name), "otr"), at=(pair,))


@mutation(SWITCH)
def plugins_not_a_list_of_names(draft: Draft) -> None:
    pair = draft.switch
    settings = {"samples": 3}
    value = draft.pick(
        [
            {"otr": settings},
            {"otr": None},
            [{"otr": settings}],
            [["otr"]],
            ["otr", None],
            ["otr", 3],
            ["otr", True],
            ["otr", {"samples": 3}],
            [{"otr": None}],
            {"name": "otr"},
            [{"name": "otr"}],
            ["otr", ["otr"]],
            [["otr", "otr"]],
        ]
    )
    pair.value = node_of(value)
    draft.refuse("plugins", at=(pair,))


@mutation(SWITCH, BLOCK)
def plugins_empty(draft: Draft) -> None:
    """Settings, and a list of plugins that does not name OTR."""
    draft.need_block()
    pair = draft.switch
    pair.value = node_of(
        draft.pick(
            [None, [], [None], 3, True, False, {}, "", [3], [[]], *([[LIGER]] if draft.host.other_plugins else [])]
        )
    )
    draft.refuse("otr", "plugins")


@mutation(SWITCH, BLOCK)
def plugins_missing(draft: Draft) -> None:
    block = draft.need_block()
    draft.document.remove(draft.switch)
    draft.refuse("otr", "plugins", at=(block,))
    draft.refuse(("`--otr.", "`otr."), "plugins")  # an option is a setting without the plugin, too


@mutation(SWITCH)
def plugin_twice(draft: Draft) -> None:
    pair = draft.switch
    pair.value = node_of(draft.pick([["otr", "otr"], ["otr", "otr_plugin.OTRPlugin"]]))
    draft.refuse("otr", at=(pair,))


@mutation(SWITCH, hosts=("llamafactory", "trl"))
def another_plugin(draft: Draft) -> None:
    pair = draft.switch
    name = draft.pick([LIGER, "more", "notre.Dame", "otr_plugin.hosts.axolotl.adapter.OTRPlugin"])
    pair.value = node_of(draft.draw(_order(["otr", name])))
    draft.refuse(name, at=(pair,))


def _order(items: list[Any]) -> Any:
    return st.permutations(items)


@mutation(SWITCH)
def plugins_key_misspelt(draft: Draft) -> None:
    name = draft.pick(["plugin", "Plugins", "PLUGINS", "Plugin", "plugins ", " plugins", look_alike(draft, "plugins")])
    pair = draft.switch
    pair.name, pair.spelling = name, None
    if draft.chance(20):
        draft.document.insert_after(pair, Pair("plugins", Sequence([])))
    draft.refuse((*seen(name), "plugin"), at=(pair,))


@mutation(SWITCH)
def plugins_nested(draft: Draft) -> None:
    pair = draft.switch
    draft.document.remove(pair)
    holder = _holder(draft)
    assert isinstance(holder.value, Mapping)
    holder.value.pairs.append(pair)
    draft.refuse("otr", at=(pair,))


def _holder(draft: Draft) -> Pair:
    """A key whose value is a mapping of anything."""
    name = draft.pick(draft.host.holders)
    if name not in draft.document:
        draft.document.pairs.append(Pair(name, Mapping([])))
    holder = draft.document[name]
    if not isinstance(holder.value, Mapping):
        holder.value = Mapping([])
    return holder


# Keys that stand twice


@mutation(SWITCH, hosts=ALL)
def switch_twice(draft: Draft) -> None:
    pair = draft.switch
    copies = [copy.deepcopy(pair.value)]
    if draft.host.reads_variables:
        copies += [Scalar("cross_entropy"), Scalar(None)]
    else:
        copies += [Sequence([]), Scalar(None), Sequence([Scalar(LIGER)])]
    other = Pair(pair.name, draft.pick(copies))
    _beside(draft, draft.document, pair, other)
    draft.refuse(pair.name, at=(pair, other))


@mutation(BLOCK, hosts=ALL)
def block_twice(draft: Draft) -> None:
    pair = draft.need_block()
    value: Any = {draft.setting_name("samples"): 3}
    other = Pair(pair.name, draft.pick([node_of(value), copy.deepcopy(pair.value), Scalar(None)]))
    _beside(draft, draft.document, pair, other)
    draft.refuse(pair.name, at=(pair, other))


@mutation(BLOCK, hosts=ALL)
def setting_twice(draft: Draft) -> None:
    pair = a_setting(draft)
    other = Pair(
        pair.name, draft.pick([copy.deepcopy(pair.value), node_of(draft.draw(ANY_VALUE[setting_of(draft, pair)]))])
    )
    _beside(draft, block_of(draft), pair, other)
    draft.refuse(pair.name, at=(pair, other))


def _beside(draft: Draft, mapping: Mapping, pair: Pair, other: Pair) -> None:
    if draft.chance(50):
        mapping.insert_after(pair, other)
    else:
        mapping.pairs.insert(draft.pick([0, len(mapping.pairs)]), other)


@mutation(BLOCK, hosts=ALL)
def merged_setting_overridden(draft: Draft) -> None:
    """`<<: {samples: 3}` beside `samples: 16`."""
    assert draft.settings is not None
    block, pair = block_of(draft), a_setting(draft)
    now = draft.settings[setting_of(draft, pair)]
    value = draft.draw(ANY_VALUE[setting_of(draft, pair)].filter(lambda value: value != now))
    other = Pair(pair.name, Scalar(value))
    block.pairs.insert(draft.pick([0, len(block.pairs)]), Pair("<<", Mapping([other]), "<<"))
    draft.raw_yaml()
    draft.refuse(pair.name, at=(pair, other))


@mutation(SWITCH, hosts=ALL)
def merged_switch_overridden(draft: Draft) -> None:
    """`<<: {plugins: [otr]}` beside `plugins: []`."""
    pair = draft.switch
    options = [Scalar("cross_entropy"), Scalar(None)] if draft.host.reads_variables else [Sequence([]), Scalar(None)]
    other = Pair(pair.name, pair.value)
    pair.value = draft.pick(options)
    draft.document.pairs.insert(draft.pick([0, len(draft.document.pairs)]), Pair("<<", Mapping([other]), "<<"))
    draft.raw_yaml()
    draft.refuse(pair.name, at=(pair, other))


# The block of settings


@mutation(BLOCK)
def block_renamed(draft: Draft) -> None:
    name = draft.pick(
        ["Otr", "OTR", "oTR", "otr_samples", "otr-samples", "otr_plugin", "otr_config", "otr-plugin", "OTR_SAMPLES"]
    )
    block = draft.need_block()
    block.name, block.spelling = name, None
    draft.refuse(name, at=(block,))


@mutation(BLOCK)
def block_misspelt(draft: Draft) -> None:
    name = draft.pick(["ort", "otrr", "ottr", "oter", "rot"])
    block = draft.need_block()
    block.name, block.spelling = name, None
    draft.refuse(name, at=(block,))


@mutation(BLOCK)
def setting_at_the_top_by_its_full_name(draft: Draft) -> None:
    name = draft.pick(
        ["otr_samples", "otr-samples", "otr/samples", "OTR_SAMPLES", "otr_nll_weight", "otr:samples", "otrsamples"]
    )
    pair = Pair(name, Scalar(3))
    draft.document.pairs.append(pair)
    draft.refuse(name, at=(pair,))


@mutation(BLOCK)
def look_alike_block(draft: Draft) -> None:
    name = look_alike(draft, "otr")
    block = draft.need_block()
    block.name, block.spelling = name, None
    draft.refuse((*seen(name), "otr"), at=(block,))


@mutation(BLOCK)
def block_nested(draft: Draft) -> None:
    """`otr:` below another key."""
    pair = draft.need_block()
    if draft.chance(60):
        draft.document.remove(pair)
    else:
        pair = Pair("otr", node_of({"samples": 3}))
    holder = _holder(draft)
    assert isinstance(holder.value, Mapping)
    if draft.chance(70):
        holder.value.pairs.append(pair)
    else:
        holder.value.pairs.append(Pair("deeper", Sequence([Mapping([pair])])))
    draft.refuse("otr", at=(pair,))


@mutation(BLOCK)
def block_in_the_block(draft: Draft) -> None:
    block = draft.need_block()
    inner = Pair("otr", block.value)
    block.value = Mapping([inner])
    draft.refuse("otr", at=(inner,))


@mutation(BLOCK)
def settings_not_indented(draft: Draft) -> None:
    block, settings = draft.need_block(), draft.setting_pairs()
    block.value = Scalar(None, "")
    last = block
    for pair in settings:
        draft.document.insert_after(last, pair)
        last = pair
    draft.raw_yaml()
    draft.block = True
    draft.refuse(tuple(pair.name for pair in settings))


@mutation(BLOCK)
def settings_indented_by_other_spaces(draft: Draft) -> None:
    """A non-breaking space looks like an indentation, and is a part of the key."""
    block, settings = draft.need_block(), draft.setting_pairs()
    space = draft.pick(SPACES)
    count = draft.pick([len(settings), draft.pick(range(1, len(settings) + 1))])
    kept, moved = settings[: len(settings) - count], settings[len(settings) - count :]
    with_margin = kept and draft.chance(50)  # spaces that YAML takes as such, before the other ones
    assert isinstance(block.value, Mapping)
    lines = []
    for pair in moved:
        assert isinstance(pair.value, Scalar)
        lines.append(f"{space * 2}{pair.name}: {plain(pair.value.value)}")
    if with_margin:
        draft.raw_yaml()
        block.value.pairs = [*kept, *(Pair(f"{space}{p.name}", p.value) for p in moved)]
        for new in block.value.pairs[len(kept) :]:
            new.spelling = new.name
    else:
        block.value = Mapping(kept, flow=False) if kept else Scalar(None, "")
        last = block
        for line in lines:
            new = raw(line)
            draft.document.insert_after(last, new)
            last = new
        block.explicit = False
        draft.block = True
        draft.raw_yaml()
    draft.refuse(tuple(pair.name for pair in moved))


@mutation(BLOCK)
def block_not_a_mapping(draft: Draft) -> None:
    """`otr: 16`."""
    assert draft.settings is not None
    if "otr" not in draft.document:
        draft.document.pairs.append(Pair("otr", Scalar(None)))
    block = draft.document["otr"]
    value = draft.pick(
        [
            16,
            True,
            False,
            0,
            "samples",
            "samples: 16",
            "samples=16",
            "{samples: 16}",
            ["samples"],
            [{"samples": 16}],
            [],
            "true",
            1.5,
            [["samples", 16]],
            "otr",
            ["otr"],
            "on",
        ]
    )
    block.value = node_of(value)
    draft.refuse("otr", at=(block,))


# A setting


@mutation(BLOCK, hosts=ALL)
def unknown_setting(draft: Draft) -> None:
    name = misspelt(draft, draft.pick(SETTINGS))
    if draft.chance(30):
        name = draft.pick(
            ["k", "kappa", "Samples", "SAMPLES", "top-k", "nll-weight", "num_samples", "enabled", "weight", "loss"]
        )
    if draft.host.reads_variables:
        name = f"OTR_{name.upper()}"
        if name.removeprefix("OTR_").lower() in SETTINGS:
            name = "OTR_KAPPA"
    pair = Pair(name, draft.pick([Scalar(3), Scalar("a"), Scalar(None)]))
    block_of(draft).pairs.append(pair)
    draft.refuse((name, name.removeprefix("OTR_").lower()), at=(pair,))


@mutation(BLOCK)
def look_alike_setting(draft: Draft) -> None:
    pair = a_setting(draft)
    letters = [name for name in [pair.name] if any(letter in DOUBLES for letter in name)]
    name = look_alike(draft, letters[0]) if letters else f"{pair.name}\u200b"
    pair.name, pair.spelling = name, None
    draft.refuse((*seen(name), "unknown"), at=(pair,))


WRONG: dict[str, tuple[Any, ...]] = {
    "objective": ("OTR", "ppo", 3, None, True, ["otr"], "otr ", ""),
    "estimator": ("Exact", "mean", None, 0, {"sampled": 1}),
    "samples": (0, -1, 65537, 1.5, True, "many", None, [16], {"n": 16}, float("inf"), ""),
    "temperature": (0, -1, 101, 0.009, "hot", True, None, [1], float("nan"), float("inf"), "1,3"),
    "beta": (1, 1.5, -100.5, float("-inf"), "none", False, None, [0]),
    "alpha": (0, 100.5, -1, True, None, "half", float("nan")),
    "nll_weight": (-0.1, 100.5, "auto", True, None, float("nan")),
    "min_label_prob": (-0.1, 1, "low", True, None, float("nan")),
    "max_label_prob": (0, 1.5, "high", False, None, float("inf")),
    "top_k": (0, -1, 1.5, "all", False, [5]),
    "top_p": (0, 1.1, -0.5, "90%", None, True, float("nan")),
    "baseline": ("Mean", "median", 0, True),
    "chunk_tokens": (0, -1, 2.5, "all", None, True, ["auto"]),
    "kernel": ("cuda", "Triton", None, 1, ""),
}


@mutation(BLOCK, COMMAND, VARIABLES, hosts=ALL)
def wrong_value(draft: Draft) -> None:
    """A value that is out of bounds or of another type. A right one elsewhere may override it."""
    name = draft.pick(SETTINGS)
    value = draft.pick(WRONG[name])
    if draft.host.reads_variables and value == "":  # an empty variable may mean null
        value = "nothing"
    if draft.host.reads_variables and value is None and name == "top_k":
        value = 0
    block = block_of(draft)
    key = draft.setting_name(name)
    for old in [pair for pair in block.pairs if pair.name == key]:
        block.remove(old)
    pair = Pair(key, _wrong(value))
    block.pairs.append(pair)
    if isinstance(value, float):
        draft.raw_yaml()
    draft.refuse((name, key), at=(pair,))


def _wrong(value: Any) -> Any:
    special = {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}
    return Scalar(value, special[str(value)]) if str(value) in special else node_of(value)


WITHOUT_EFFECT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"estimator": "exact", "samples": 16}, "samples"),
    ({"objective": "sft", "samples": 16}, "samples"),
    ({"objective": "dft", "samples": 16}, "samples"),
    ({"objective": "sft", "temperature": 2}, "temperature"),
    ({"objective": "dft", "temperature": 2}, "temperature"),
    ({"objective": "sft", "beta": 0}, "beta"),
    ({"objective": "dft", "top_k": 5}, "top_k"),
    ({"objective": "sft", "top_p": 0.5}, "top_p"),
    ({"objective": "dft", "baseline": "mean"}, "baseline"),
    ({"objective": "sft", "estimator": "exact"}, "estimator"),
    ({"objective": "power", "samples": 16}, "samples"),
    ({"objective": "eaft", "beta": 0}, "beta"),
    ({"objective": "dft", "alpha": 0.5}, "alpha"),
    ({"alpha": 2}, "alpha"),
    ({"min_label_prob": 0.5, "max_label_prob": 0.5}, "min_label_prob"),
    ({"baseline": "mean", "samples": 1}, "samples"),
    ({"baseline": "mean", "top_k": 1}, "top_k"),
    ({"baseline": "mean", "top_p": 0.05}, "top_p"),
)


@mutation(BLOCK, hosts=ALL)
def setting_without_effect(draft: Draft) -> None:
    chosen, name = draft.pick(WITHOUT_EFFECT)
    block = draft.need_block()
    others = [] if not draft.host.reads_variables else [Pair("NOTRE_DAME", Scalar(1))]
    block.value = Mapping(others + [Pair(draft.setting_name(key), Scalar(value)) for key, value in chosen.items()])
    draft.refuse((name, draft.setting_name(name)), at=(block.value[draft.setting_name(name)],))


# The command line


@mutation(COMMAND, hosts=("axolotl", "trl"), without_otr=True)
def misspelt_option(draft: Draft) -> None:
    name = misspelt(draft, draft.pick(SETTINGS))
    kinds = [
        ([f"--otr.{name}", "3"], name),
        ([f"--otr.{name}=3"], name),
        (["--otr-samples", "3"], "otr-samples"),
        (["--otr_samples=3"], "otr_samples"),
        (["--otr-samples=3"], "otr-samples"),
        (["--otr", "{samples: 3}"], "--otr"),
        (["--otr={samples: 3}"], "--otr"),
        (["--OTR.samples", "3"], "OTR.samples"),
        (["--Otr.samples=3"], "Otr.samples"),
        (["--otr.Samples=3"], "Samples"),
        (["--otr:samples=3"], "otr"),
        (["--otr.samples.k=3"], "samples.k"),
        (["-otr.samples=3"], "otr"),
        (["--otr.=3"], "otr"),
        (["otr.samples=3"], "otr.samples"),
        (["--otr/samples=3"], "otr"),
    ]
    _give(draft, draft.pick(kinds))


def _give(draft: Draft, given: tuple[list[str], str]) -> None:
    command, word = given
    draft.command += command
    draft.refuse(word)
    if draft.settings is None:  # that the plugin is missing is also true
        draft.refuse("otr", "plugins")


@mutation(COMMAND, hosts=("llamafactory",), without_otr=True)
def misspelt_override(draft: Draft) -> None:
    name = misspelt(draft, draft.pick(SETTINGS))
    kinds = [
        ([f"otr.{name}=3"], name),
        (["otr_samples=3"], "otr_samples"),
        (["otr-samples=3"], "otr-samples"),
        (["OTR.samples=3"], "OTR"),
        (["Otr.samples=3"], "Otr"),
        (["--otr.samples=3"], "otr"),
        (["--otr.samples", "3"], "otr"),
        (["otr.Samples=3"], "Samples"),
        (["otr.samples.k=3"], "samples"),
        (["otr=3"], "otr"),
        (["otr=[samples]"], "otr"),
        (["plugin=[otr]"], "plugin"),
        (["plugins=[OTR]"], "OTR"),
    ]
    _give(draft, draft.pick(kinds))


@mutation(COMMAND, hosts=("swift",), without_otr=True)
def option_of_another_host(draft: Draft) -> None:
    command, word = draft.pick(
        [
            (["--otr.samples", "3"], "otr.samples"),
            (["--otr_samples", "3"], "otr_samples"),
            (["--OTR_SAMPLES", "3"], "OTR_SAMPLES"),
            (["--plugins", "otr"], "plugins"),
            (["--otr", '{"samples": 3}'], "otr"),
            (["--loss_type", "OTR"], "OTR"),
            (["--loss_type", "otr_plugin"], "otr_plugin"),
            (["--loss-type", "OTR"], "OTR"),
        ]
    )
    draft.command += command
    draft.refuse(word)


@mutation(COMMAND, hosts=PLUGIN_HOSTS)
def option_out_of_bounds(draft: Draft) -> None:
    name, value = draft.pick(
        [("samples", "0"), ("samples", "x"), ("temperature", "-1"), ("top_p", "2"), ("kernel", "cuda")]
    )
    key = "otr." + (name.replace("_", "-") if draft.host.name == "axolotl" else name)
    draft.command.append(f"{'' if draft.host.name == 'llamafactory' else '--'}{key}={value}")
    draft.refuse(name)


@mutation(COMMAND, hosts=PLUGIN_HOSTS, with_otr=False, without_otr=True)
def option_without_the_plugin(draft: Draft) -> None:
    draft.command.append(f"{'' if draft.host.name == 'llamafactory' else '--'}otr.samples=16")
    draft.refuse("otr", "plugins")


@mutation(SWITCH, COMMAND, hosts=("axolotl", "llamafactory"))
def switched_off_by_the_command_line(draft: Draft) -> None:
    if draft.host.name == "axolotl":
        draft.command += ["--plugins", draft.pick([LIGER, "none", "null"])]
    else:
        draft.command.append(draft.pick(["plugins=", "plugins=[]", "plugins=null", "plugins=[more]", "plugins"]))
    draft.refuse("plugins")


@mutation(SWITCH, COMMAND, hosts=("swift",))
def loss_type_changed_by_the_command_line(draft: Draft) -> None:
    draft.command += ["--loss_type", draft.pick(["cross_entropy", "embedding"])]
    draft.refuse("loss_type")


# The environment


@mutation(VARIABLES, hosts=ALL, without_otr=True)
def misspelt_variable(draft: Draft) -> None:
    name = misspelt(draft, "samples").upper()
    names = [f"OTR_{name}", "OTR-SAMPLES", "OTRSAMPLES", "OTR.SAMPLES", "OTR__SAMPLES", "OTR_SAMPLE", "Otr_Sampels"]
    variable = draft.pick(names)
    draft.environment[variable] = "3"
    draft.refuse(variable)


@mutation(VARIABLES, hosts=PLUGIN_HOSTS, without_otr=True)
def variable_of_another_host(draft: Draft) -> None:
    variable = draft.pick(["OTR_SAMPLES", "otr_samples", "Otr_Samples", "OTR_TOP_K", "OTR_OBJECTIVE"])
    draft.environment[variable] = "3"
    draft.refuse(variable)


@mutation(VARIABLES, hosts=("trl",), without_otr=True)
def variable_in_trls_env(draft: Draft) -> None:
    if "env" not in draft.document:
        draft.document.pairs.append(Pair("env", Mapping([])))
    variable = draft.pick(["OTR_SAMPLES", "OTR_SAMPELS"])
    env = draft.document["env"].value
    assert isinstance(env, Mapping)
    env.pairs.append(Pair(variable, Scalar(3)))
    draft.refuse(variable)


@mutation(SWITCH, VARIABLES, hosts=("swift",), with_otr=False, without_otr=True)
def variable_without_the_loss(draft: Draft) -> None:
    draft.environment["OTR_SAMPLES"] = "3"
    draft.refuse("OTR_SAMPLES", "loss_type")


@mutation(VARIABLES, hosts=("swift",))
def variable_in_small_letters_beside_it(draft: Draft) -> None:
    assert draft.settings is not None
    other = 7 if draft.settings.get("chunk_tokens") != 7 else 8
    block = block_of(draft)
    if "OTR_CHUNK_TOKENS" not in block:
        block.pairs.append(Pair("OTR_CHUNK_TOKENS", Scalar(9)))
    block.pairs.append(Pair("otr_chunk_tokens", Scalar(other)))
    draft.refuse(("otr_chunk_tokens", "OTR_CHUNK_TOKENS"))


@mutation(VARIABLES, hosts=ALL, without_otr=True, harmless=True)
def variable_of_another_program(draft: Draft) -> None:
    names = ["NOTR_SAMPLES", "OTRANTO", "HOTROD", "MOTR_K", "OTR_PLUGIN_TRACE"]
    draft.environment[draft.pick(names + (["OTR_HOME"] if draft.settings is None else []))] = "0"


@mutation(hosts=("axolotl",), without_otr=True, harmless=True)
def another_launcher(draft: Draft) -> None:
    """By default, `accelerate launch` starts another process."""
    launcher = draft.pick(["python", "torchrun"])
    draft.command += [f"--launcher={launcher}"] if draft.chance(50) else ["--launcher", launcher]


@mutation(hosts=("llamafactory",), without_otr=True, harmless=True)
def extra_keys_allowed(draft: Draft) -> None:
    draft.environment["ALLOW_EXTRA_ARGS"] = draft.pick(["1", "true", "0"])


# ms-swift


@mutation(SWITCH, hosts=("swift",))
def wrong_loss_type(draft: Draft) -> None:
    name = draft.pick(["OTR", "Otr", "otr_plugin", "otr_plugin.OTRPlugin", look_alike(draft, "otr"), "otr ", "[otr]"])
    pair = draft.switch
    pair.value = Scalar(name)
    draft.refuse(("loss_type", *seen(name)), at=(pair,))


@mutation(SWITCH, hosts=("swift",))
def loss_type_key_misspelt(draft: Draft) -> None:
    pair = draft.switch
    name = draft.pick(["Loss_type", "LOSS_TYPE", "loss_types", "losstype", "loss", look_alike(draft, "loss_type")])
    pair.name, pair.spelling = name, None
    draft.refuse((*seen(name), "loss_type"), at=(pair,))
    if draft.setting_pairs():
        draft.refuse("add `loss_type: otr`")


@mutation(SWITCH, BLOCK, hosts=("swift",))
def loss_type_missing(draft: Draft) -> None:
    pair = a_setting(draft)
    if draft.chance(50):
        draft.document.remove(draft.switch)
    else:
        draft.switch.value = draft.pick([Scalar("cross_entropy"), Scalar(None)])
    draft.refuse(pair.name, "loss_type")


@mutation(SWITCH, hosts=("swift",), without_otr=True)
def keys_of_the_other_hosts(draft: Draft) -> None:
    kinds = [("plugins", ["otr"]), ("otr", {"samples": 3}), ("OTR_SAMPLES", 3), ("plugins", "otr"), ("otr_samples", 3)]
    key, value = draft.pick(kinds)
    pair = Pair(key, node_of(value))
    draft.document.pairs.append(pair)
    draft.refuse(key)


@mutation(BLOCK, hosts=("swift",))
def env_misspelt(draft: Draft) -> None:
    block = draft.need_block()
    block.name, block.spelling = draft.pick(["env", "Env", "ENVS", "ENV ", look_alike_env(draft)]), None
    draft.refuse((*seen(block.name), "env", "ENV"), at=(block,))


def look_alike_env(draft: Draft) -> str:
    return str(draft.pick(["\u0415NV", "EN\u200bV", "\uff25NV"]))


@mutation(BLOCK, hosts=("swift",))
def env_not_indented(draft: Draft) -> None:
    block, settings = draft.need_block(), draft.setting_pairs()
    assert isinstance(block.value, Mapping)
    block.value.pairs = [pair for pair in block.value.pairs if pair not in settings]
    if not block.value.pairs:
        block.value = Scalar(None, "")
    space = draft.pick(["", *SPACES])
    last = block
    for pair in settings:
        pair.name = f"{space}{pair.name}"
        pair.spelling = pair.name
        draft.document.insert_after(last, pair)
        last = pair
    draft.block = True
    draft.raw_yaml()
    draft.refuse(tuple(setting for pair in settings for setting in seen(pair.name)))


@mutation(BLOCK, hosts=("swift",))
def settings_as_a_mapping(draft: Draft) -> None:
    pair = Pair(draft.pick(["OTR", "otr"]), node_of({"samples": 3}))
    block_of(draft).pairs.append(pair)
    draft.refuse(("OTR", "otr"), at=(pair,))


# Recipes without OTR


@mutation(SWITCH, BLOCK, without_otr=True, with_otr=False)
def settings_only(draft: Draft) -> None:
    """`otr:` in a recipe that names no plugins, or others."""
    if draft.host.other_plugins and draft.chance(50):
        draft.document.pairs.append(Pair("plugins", node_of([draft.pick(draft.host.other_plugins)])))
    block = Pair("otr", node_of(draft.pick([{"samples": 3}, {"samples": 3}, True, "on", ["samples"]])))
    draft.document.pairs.append(block)
    draft.refuse("otr", "plugins", at=(block,))


@mutation(SWITCH, without_otr=True, with_otr=False, harmless=True, hosts=("axolotl",))
def another_plugin_alone(draft: Draft) -> None:
    draft.document.pairs.append(Pair("plugins", node_of([draft.pick(draft.host.other_plugins)])))


@mutation(BLOCK, without_otr=True, with_otr=True, harmless=True, hosts=ALL)
def words_in_a_text(draft: Draft) -> None:
    """A recipe with OTR, in a string."""
    key = draft.pick(TEXT_KEYS[draft.host.name])
    if key not in draft.document:
        draft.document.pairs.append(Pair(key, TextBlock(draft.pick(TEXTS))))
