"""Right recipes: with OTR and any settings that belong together, or without it; and their style."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st

from benchmarks.fuzz.cases import Active, Case, Either, Outcome, Plain, Refusal, Refused, Word
from benchmarks.fuzz.document import Layout, Mapping, Node, Pair, Scalar, Sequence, TextBlock, node_of, pairs_in, write
from benchmarks.fuzz.hosts import Host
from otr_plugin.config import OBJECTIVES, OTRConfig

T = TypeVar("T")
Draw = Callable[[st.SearchStrategy[T]], T]
# Comments that show a recipe with OTR; a comment has no effect.
COMMENTS = (
    "see notre_dame",
    "otr:",
    "plugins: [otr]",
    "otr: {samples: 4}",
    "the settings' names: samples, beta",
    "[otr]",
)
# Text that looks like a recipe with OTR, in a string.
TEXTS = (["otr:", "  samples: 4"], ["plugins: [otr]"], ["plugins:", "  - otr", "# otr"], ["a line", "Otr: 3"])


@dataclass
class Draft:
    """A recipe while it is made. Mutations change it, and what is expected of it."""

    host: Host
    draw: Draw[Any]
    document: Mapping
    settings: dict[str, Any] | None  # what a person reads in the file; None: the file does not name OTR
    overrides: dict[str, Any] = field(default_factory=dict)  # on the command line
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    refusals: list[tuple[tuple[Word, ...], tuple[Pair, ...]]] = field(default_factory=list)
    sweep: str | None = None
    or_refused: bool = False  # an error is also right
    json: bool = True  # the file may be JSON
    block: bool = False  # the top level has to be in block style
    mutations: list[str] = field(default_factory=list)

    def pick(self, options: Any) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def chance(self, percent: int) -> bool:
        # The choice that is false is the first one, to which hypothesis shrinks.
        return bool(self.draw(st.integers(0, 99)) >= 100 - percent)

    def refuse(self, *words: Word, at: tuple[Pair, ...] = ()) -> None:
        self.refusals.append((words, at))

    def raw_yaml(self) -> None:
        """The mutation spells something that JSON cannot."""
        self.json = False

    # The places of OTR in the recipe

    @property
    def switch(self) -> Pair:
        return self.document["loss_type" if self.host.reads_variables else "plugins"]

    @property
    def block_name(self) -> str:
        return "ENV" if self.host.reads_variables else "otr"

    def setting_name(self, setting: str) -> str:
        return f"OTR_{setting.upper()}" if self.host.reads_variables else setting

    def setting_pairs(self) -> list[Pair]:
        """The pairs of the settings in the file."""
        if self.block_name not in self.document:
            return []
        value = self.document[self.block_name].value
        names = [self.setting_name(name) for name in OTRConfig.model_fields]
        return [pair for pair in value.pairs if pair.name in names] if isinstance(value, Mapping) else []

    def need_block(self) -> Pair:
        """The pair `otr:` or `ENV:` with at least one setting, added where there is none."""
        assert self.settings is not None
        if self.block_name not in self.document:
            self.document.pairs.append(Pair(self.block_name, Mapping([])))
        block = self.document[self.block_name]
        if not isinstance(block.value, Mapping):
            block.value = Mapping([])
        if not self.setting_pairs():
            self.settings["chunk_tokens"] = 32  # goes with all other settings
            block.value.pairs.append(Pair(self.setting_name("chunk_tokens"), Scalar(32)))
        return block

    def outcome(self) -> Outcome:
        if self.refusals:
            return Refused(tuple(Refusal(words, self._lines(at)) for words, at in self.refusals))
        if self.settings is None:
            return Plain()
        outcome = Active(OTRConfig(**self.settings | self.overrides))
        if self.or_refused:
            return Either(outcome, Refused((Refusal(()),)))
        return outcome

    def _lines(self, pairs: tuple[Pair, ...]) -> tuple[range, ...]:
        """The lines of each pair; none with a sweep, for which the host writes a file of its own."""
        return () if self.sweep else tuple(range(pair.line, pair.last_line + 1) for pair in pairs)

    def finish(self) -> Case:
        extensions = self.host.extensions
        layout = style(self)
        if layout.json and "json" in extensions:
            extension = self.pick(extensions)
        else:
            extension = self.pick([name for name in extensions if name != "json"])
        text = write(self.document, layout)
        return Case(
            host=self.host.name,
            file=f"recipe.{extension}",
            text=text,
            outcome=self.outcome(),
            command=self.command,
            environment=self.environment,
            sweep=self.sweep,
            after_otr=self.chance(10),
            mutations=tuple(self.mutations),
        )


def numbers(low: int, high: int, per_unit: int = 100) -> st.SearchStrategy[int | float]:
    """Numbers with few digits, as people write them."""
    return st.integers(low * per_unit, high * per_unit).map(
        lambda n: n // per_unit if n % per_unit == 0 else n / per_unit
    )


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "samples": st.sampled_from([1, 2, 7, 8, 64, 256, 512, 65536]) | st.integers(1, 65536),
    "temperature": st.sampled_from([1.3, 1, 0.01, 100]) | numbers(1, 4),
    "beta": st.sampled_from([-0.1, 0, 0.5, -1e-05]) | numbers(-4, 0),
    "alpha": st.sampled_from([1, 0.7, 1e-05]) | numbers(1, 3),
    "min_label_prob": st.sampled_from([0, 0.05, 1e-05]),
    "max_label_prob": st.sampled_from([1, 0.5, 0.999]),
    "nll_weight": st.sampled_from([0, 0.1, 1.0, 1e-05]) | numbers(0, 3),
    "top_k": st.sampled_from([None, 1, 2, 20]) | st.integers(1, 10**6),
    "top_p": st.sampled_from([1.0, 1, 0.9, 0.5, 1e-05]) | numbers(0, 1).filter(lambda p: p > 0),
    "baseline": st.sampled_from(["none", "mean"]),
    "chunk_tokens": st.sampled_from(["auto", 1, 512]) | st.integers(1, 10**6),
    "kernel": st.sampled_from(["auto", "torch"]),  # triton is refused where there is no GPU
}
ANY_VALUE = VALUES | {
    "objective": st.sampled_from(OBJECTIVES),
    "estimator": st.sampled_from(["sampled", "exact"]),
}
# settings that every objective has
ALWAYS_USED = ("nll_weight", "min_label_prob", "max_label_prob", "chunk_tokens", "kernel")


@st.composite
def settings(draw: Draw[Any]) -> dict[str, Any]:
    """Settings that are valid, each of which has an effect."""
    names = [name for name in VALUES if draw(st.integers(0, 2)) == 2]
    chosen: dict[str, Any] = {}
    objective = draw(st.sampled_from(["otr"] * 3 + list(OBJECTIVES[1:])))
    estimator = draw(st.sampled_from(["sampled", "sampled", "exact"]))
    if objective not in ("power", "eaft"):
        names = [name for name in names if name != "alpha"]
    if objective != "otr":
        names, chosen["objective"] = [name for name in names if name in (*ALWAYS_USED, "alpha")], objective
    elif estimator != "sampled":
        names, chosen["estimator"] = [name for name in names if name != "samples"], estimator
    chosen |= {name: draw(VALUES[name]) for name in names}
    few = chosen.get("samples", 256) < 2 or (chosen.get("top_k") or 2) < 2 or chosen.get("top_p", 1) < 0.1
    if chosen.get("baseline") == "mean" and few:
        del chosen["baseline"]
    return {name: chosen[name] for name in draw(st.permutations(list(chosen)))}


def draft_of(draw: Draw[Any], host: Host, with_otr: bool) -> Draft:
    """A right recipe. Its pairs are in any order, and have no style yet."""
    chosen = dict(copy.deepcopy(host.needs))
    for key in draw(st.lists(st.sampled_from(list(host.harmless)), unique=True, max_size=3)):
        chosen[key] = copy.deepcopy(draw(st.sampled_from(host.harmless[key])))
    found: dict[str, Any] | None = None
    if with_otr:
        found = draw(settings())
        if host.reads_variables:
            chosen["loss_type"] = "otr"
            chosen["ENV"] = {"NOTRE_DAME": 1} | {f"OTR_{name.upper()}": value for name, value in found.items()}
        else:
            name = draw(st.sampled_from(["otr", *host.class_names]))
            others = draw(st.lists(st.sampled_from(host.other_plugins), unique=True)) if host.other_plugins else []
            names = draw(st.permutations([name, *others]))
            chosen["plugins"] = names if others or draw(st.booleans()) else name
            if found or draw(st.booleans()):
                chosen["otr"] = dict(found) if found else draw(st.sampled_from([None, {}]))
    document = node_of({key: chosen[key] for key in draw(st.permutations(list(chosen)))})
    assert isinstance(document, Mapping)
    draft = Draft(host, draw, document, found)
    for pair in draft.setting_pairs():
        assert isinstance(pair.value, Scalar)
        pair.value.quotable = True
    return draft


# Style: the same recipe, spelled differently.


def style(draft: Draft) -> Layout:
    """Chooses a style for every part of the recipe that has none, and the file's layout."""
    if draft.json and not draft.block and draft.chance(10):
        return Layout(step=draft.pick([1, 2, 4]), json=True)
    for pair in pairs_in(draft.document):
        if pair.raw is None:
            _style_pair(draft, pair)
    if not draft.block and draft.chance(4):
        draft.document.flow = True
        for pair in pairs_in(draft.document):
            _make_flow(pair.value)
    elif draft.chance(10):
        place = draft.draw(st.integers(0, len(draft.document.pairs)))
        holder = draft.pick(TEXT_KEYS[draft.host.name])
        if holder not in draft.document and all(p.raw is None for p in draft.document.pairs):
            draft.document.pairs.insert(place, Pair(holder, TextBlock(draft.pick(TEXTS))))
    return Layout(
        step=draft.pick([2, 2, 2, 4, 3]),
        newline=draft.pick(["\n", "\n", "\n", "\r\n"]),
        start=draft.pick(["", "", "", "---", "# otr: a comment\n---", "%YAML 1.1\n---"]),
        end=draft.pick(["\n", "\n", "", "\n\n", "\n...\n"]),
        mark=draft.chance(3) and draft.document.flow is not True,
    )


TEXT_KEYS = {
    "axolotl": ("chat_template_jinja", "wandb_name"),
    "llamafactory": ("run_name",),
    "trl": ("run_name",),
    "swift": ("system", "run_name"),
}


def _make_flow(node: Node) -> None:
    if isinstance(node, Mapping | Sequence):
        node.flow = True


def _style_pair(draft: Draft, pair: Pair) -> None:
    if pair.spelling is None and pair.name.isascii() and pair.name.isidentifier() and draft.chance(6):
        pair.spelling = draft.pick([f'"{pair.name}"', f"'{pair.name}'", f"{pair.name} ", f"!!str {pair.name}"])
        if pair.name == "otr" and draft.chance(20):
            pair.spelling = '"\\x6ftr"'
    if draft.chance(8):
        pair.comment = draft.pick(COMMENTS)
    if draft.chance(8):
        pair.above = [draft.pick(["", *(f"# {comment}" for comment in COMMENTS), "#otr: {samples: 4}"])]
    pair.explicit = pair.explicit or draft.chance(2)
    _style(draft, pair.value)


def _style(draft: Draft, node: Node) -> None:
    match node:
        case Mapping():
            if node.flow is None:
                node.flow = draft.chance(25) and not any(pair.raw is not None for pair in node.pairs)
            node.wrapped = draft.chance(30)
            if not node.tag and draft.chance(3):
                node.tag = "!!map"
            if node.flow:  # what is in a flow mapping is in flow style
                for pair in pairs_in(node):
                    pair.comment, pair.explicit, pair.above = "", False, []
                    _make_flow(pair.value)
        case Sequence():
            if node.flow is None:
                node.flow = draft.chance(50)
            node.indented = draft.chance(70)
            for item in node.items:
                _style(draft, item)
                if node.flow:
                    _make_flow(item)
                    for pair in pairs_in(item):
                        _make_flow(pair.value)
        case Scalar():
            if node.spelling is None:
                node.spelling = _spelling(draft, node)
        case TextBlock():
            pass


def _spelling(draft: Draft, scalar: Scalar) -> str | None:
    value = scalar.value
    if value is None:
        return str(draft.pick(["null", "~", "Null"]))
    if isinstance(value, str) and draft.chance(15):
        return str(
            draft.pick([json.dumps(value), *([f"'{value}'"] if "'" not in value and value.isprintable() else [])])
        )
    if isinstance(value, int | float) and not isinstance(value, bool) and scalar.quotable and draft.chance(8):
        return json.dumps(str(value))
    return None
