"""Recipes, command lines and variables that once trained otherwise than they read, and what they have to end in now.

A recipe is the part about OTR. The keys that the host needs come after it, so a line of the part is a line of the file.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

import yaml

from benchmarks.fuzz.cases import Active, Case, Plain, Refusal, Refused, judge
from benchmarks.fuzz.hosts import HOSTS
from otr_plugin import OTRConfig

PLUGIN_HOSTS = ("axolotl", "llamafactory", "trl")
RIGHT = "plugins: [otr]\notr:\n  samples: 16\n"
IN_SWIFT = "loss_type: otr\nENV:\n  OTR_SAMPLES: 16\n"
LIGER = "axolotl.integrations.liger.LigerPlugin"


@dataclass
class Recipe:
    """`outcome`: OTR's settings, None for plain training, or the words of an error; `lines`: those that it names."""

    text: str
    outcome: dict | str | tuple | None
    lines: tuple[int, ...] = ()
    hosts: tuple[str, ...] = PLUGIN_HOSTS
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    sweep: str | None = None
    after_otr: bool = False  # a recipe with `plugins: [otr]` is read first, in the same process

    def __str__(self):
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return re.sub(r"\s+", " ", " ".join([*variables, repr(self.text)[1:-1], *self.command, self.sweep or ""]))[:100]

    def case(self, host: str) -> Case:
        needs = {key: value for key, value in HOSTS[host].needs.items() if f"{key}:" not in self.text}
        rest = yaml.safe_dump(needs) if not self.text.startswith("{") else ""
        text = self.text if rest else json.dumps(needs)[:-1] + ", " + self.text[1:]
        return Case(
            host=host,
            file="recipe.yml",
            text=text + rest,
            outcome=self._outcome(),
            command=self.command,
            environment=self.environment,
            sweep=self.sweep,
            after_otr=self.after_otr,
        )

    def _outcome(self):
        match self.outcome:
            case None:
                return Plain()
            case dict():
                return Active(OTRConfig(**self.outcome))
            case _:
                words = self.outcome if isinstance(self.outcome, tuple) else (self.outcome,)
                return Refused((Refusal(words, tuple(range(line, line + 1) for line in self.lines)),))


def check(reader, recipe):
    """Reads the recipe with the host's own reader; fails if the host makes something else of it."""
    case = recipe.case(reader.host.name)
    reading = reader.read(case)
    problem = judge(case.outcome, reading, re.compile(reader.host.refuses))
    assert problem is None, f"{problem}\n{case}\ngot: {reading}"


def of(host):
    return [recipe for recipe in RECIPES if host in recipe.hosts]


def _plugins(value):
    return f"plugins: {value}\notr:\n  samples: 16\n"


def _block(text):
    return f"plugins: [otr]\n{text}"


def _setting(line):
    return f"plugins: [otr]\notr:\n  {line}\n"


RECIPES = [
    # What is right.
    Recipe(RIGHT, {"samples": 16}),
    *(
        Recipe(_plugins(value), {"samples": 16})
        for value in ("otr", "[otr]", "'otr'", "otr_plugin.OTRPlugin", "\n  - otr", "!!seq [otr]")
    ),
    Recipe(_plugins("[otr_plugin.hosts.axolotl.adapter.OTRPlugin]"), {"samples": 16}, hosts=("axolotl",)),
    Recipe(_plugins(f"[{LIGER}, otr]"), {"samples": 16}, hosts=("axolotl",)),
    *(Recipe(_block(text), {}) for text in ("", "otr:\n", "otr: null\n", "otr: {}\n", "otr: ~\n")),
    Recipe("---\r\nplugins: [otr]\r\notr:\r\n  samples: 16\r\n", {"samples": 16}),
    Recipe("\ufeffplugins: [otr]\notr:\n  samples: 16\n", {"samples": 16}),
    Recipe("? plugins\n: [otr]\n? otr\n: {samples: 16}\n", {"samples": 16}),
    Recipe('"\\x6ftr": {samples: 16}\n"plugins": ["otr"]\n', {"samples": 16}),
    Recipe(
        "# Otr: {samples: 3}\n#otr:\nplugins: [otr] # - otr: 3\notr:\n  # samples: 3\n  samples: 16\n", {"samples": 16}
    ),
    Recipe('{"plugins": ["otr"], "otr": {"samples": 16}}', {"samples": 16}),
    Recipe(_setting("baseline: none"), {}),
    Recipe(_setting("top_k: null"), {}),
    Recipe(_setting("nll_weight: 1e-05"), {"nll_weight": 1e-05}),
    Recipe(_setting('samples: "16"'), {"samples": 16}),
    # Anchors and merge keys.
    Recipe(_block("otr:\n  chunk_tokens: &n 16\n  samples: *n\n"), {"chunk_tokens": 16, "samples": 16}),
    Recipe(_block("otr:\n  <<: {samples: 16}\n  beta: 0\n"), {"samples": 16, "beta": 0}),
    Recipe("<<: {plugins: [otr], otr: {samples: 16}}\n", {"samples": 16}),
    Recipe("<<: {plugins: [otr]}\notr: {samples: 16}\n", {"samples": 16}),
    Recipe("my_notes: &s {samples: 16}\nplugins: [otr]\notr:\n  <<: *s\n", {"samples": 16}, hosts=("axolotl",)),
    Recipe("<<:\n  plugins: [otr]\nplugins: []\n", "plugins", (2, 3)),
    Recipe("<<:\n  otr: {samples: 3}\nplugins: [otr]\notr: {samples: 16}\n", "otr", (2, 4)),
    Recipe(_block("otr:\n  <<:\n    samples: 3\n  samples: 16\n"), "samples", (4, 5)),
    Recipe("ENV:\n  <<: {OTR_SAMPLES: 16}\nloss_type: otr\n", {"samples": 16}, hosts=("swift",)),
    Recipe("<<: {ENV: {OTR_SAMPLES: 16}, loss_type: otr}\n", {"samples": 16}, hosts=("swift",)),
    # Keys that stand twice.
    Recipe("plugins: [otr]\nplugins: []\n", "plugins", (1, 2)),
    Recipe("plugins: []\nplugins: [otr]\n", "plugins", (1, 2)),
    Recipe("plugins: [otr]\nplugins: [otr]\n", "plugins", (1, 2)),
    Recipe(_block("otr: {samples: 3}\notr: {samples: 16}\n"), "otr", (2, 3)),
    Recipe(_block("otr: {samples: 3}\notr:\n"), "otr", (2, 3)),
    Recipe(_block("otr:\n  samples: 3\n  samples: 16\n"), "samples", (3, 4)),
    Recipe(_block("otr: {samples: 3, samples: 16}\n"), "samples", (2,)),
    # The settings are not below `otr:`.
    Recipe(_block("otr:\nsamples: 16\n"), "samples", (3,)),
    Recipe(_block("otr:\ntemperature: 2\n"), "temperature", (3,)),
    *(
        Recipe(_block(f"otr:\n{space * 2}samples: 16\n"), "samples", (3,))
        for space in "\u00a0\u2003\u3000\u202f\u2009\u200b"
    ),
    Recipe(_block("otr:\n  beta: 0\n\u00a0\u00a0samples: 16\n"), "samples", (4,)),
    Recipe(_block("otr:\n  \u00a0samples: 16\n"), "samples", (3,)),
    # The block has another name, or stands elsewhere.
    *(
        Recipe(_block(f"{name}: {{samples: 16}}\n"), (name,), (2,))
        for name in ("Otr", "OTR", "otr_plugin", "otr_config", "otr-samples", "OTR_SAMPLES")
    ),
    *(
        Recipe(_block(f"{name}: 16\n"), (name,), (2,))
        for name in ("otr_samples", "otr-samples", "OTR_SAMPLES", "otrsamples")
    ),
    *(
        Recipe(_block(f"{name}: {{samples: 16}}\n"), "otr", (2,))
        for name in ("\u043etr", "\u03bftr", "\uff4ftr", "o\u200btr", "otr\u200b", '"otr "', '" otr"', "otr\u00a0")
    ),
    Recipe(_block("lr_scheduler_kwargs:\n  otr: {samples: 16}\n"), "otr", (3,)),
    Recipe(_block("training:\n  otr: {samples: 16}\n"), "otr", (3,), hosts=("axolotl",)),
    Recipe(_block("my_notes:\n  - deeper:\n      otr: {samples: 16}\n"), "otr", (4,), hosts=("axolotl",)),
    Recipe(_block("otr:\n  otr: {samples: 16}\n"), "otr", (3,)),
    Recipe("lr_scheduler_kwargs:\n  plugins: [otr]\n", "plugins", (2,)),
    # `otr:` holds no settings.
    *(
        Recipe(_block(f"otr: {value}\n"), "otr", (2,))
        for value in (
            "16",
            "true",
            "false",
            "samples",
            "'samples: 16'",
            "samples=16",
            "[samples]",
            "[{samples: 16}]",
            "[]",
            "0",
        )
    ),
    # `plugins:` is misspelt, or holds something else.
    *(Recipe(f"{name}: [otr]\n", ("lugin",), (1,)) for name in ("plugin", "'plugins '")),
    *(Recipe(f"{name}: [otr]\n", (name,), (1,)) for name in ("Plugins", "PLUGINS")),
    Recipe("plug\u0456ns: [otr]\n", "plugins", (1,)),
    *(
        Recipe(_plugins(f"[{name}]"), (name,), (1,))
        for name in ("OTR", "Otr", "otr_plugin", "otr-plugin", "otr_plugin.OTR", "otr.Plugin", "otr_plugin.OTRConfig")
    ),
    *(
        Recipe(_plugins(f"[{name}]"), "otr", (1,))
        for name in ("\u043etr", "ot\uff52", "'otr '", "' otr'", '"[otr]"', "'otr,'")
    ),
    *(
        Recipe(_plugins(value), "plugins", (1,))
        for value in (
            "{otr: {samples: 3}}",
            "[{otr: {samples: 3}}]",
            "[[otr]]",
            "[otr, null]",
            "[otr, 3]",
            "[otr, true]",
        )
    ),
    *(Recipe(_plugins(value), ("otr", "plugins")) for value in ("[null]", "3", "true", "[]", "null", "")),
    Recipe("plugins:\n  - otr: {samples: 3}\n", "plugins", (2,)),
    Recipe(_plugins("[otr, otr]"), "twice", (1,)),
    Recipe(_plugins("[otr, otr_plugin.OTRPlugin]"), "twice", (1,)),
    *(Recipe(_plugins(f"[otr, {name}]"), name, (1,), hosts=("llamafactory", "trl")) for name in ("more", LIGER)),
    Recipe(_plugins("[otr_plugin.hosts.axolotl.adapter.OTRPlugin]"), "OTRPlugin", (1,), hosts=("llamafactory", "trl")),
    Recipe("otr:\n  samples: 16\n", ("otr", "plugins"), (1,)),
    Recipe(f"plugins: [{LIGER}]\notr:\n  samples: 16\n", ("otr", "plugins"), (2,), hosts=("axolotl",)),
    # Settings that are unknown, wrong, or without effect.
    *(
        Recipe(_setting(f"{name}: 3"), name, (3,))
        for name in ("sampels", "Samples", "top-k", "kappa", "enabled", "otr_samples")
    ),
    Recipe(_setting("s\u0430mples: 3"), ("unknown", "CYRILLIC"), (3,)),
    *(
        Recipe(_setting(line), line.split(":")[0], (3,))
        for line in (
            *(
                "samples: 0",
                "samples: 65537",
                "samples: 1.5",
                "samples: yes",
                "samples: many",
                "samples: [16]",
                "samples:",
            ),
            *(
                "temperature: 0",
                "temperature: 101",
                "temperature: .inf",
                "temperature: '1,3'",
                "beta: 1",
                "beta: -100.5",
            ),
            *(
                "beta: -.inf",
                "nll_weight: -0.1",
                "nll_weight: 100.5",
                "nll_weight: .nan",
                "nll_weight: -1e-05",
                "top_k: 0",
            ),
            *(
                "top_p: 0",
                "top_p: 1.1",
                "top_p: 90%",
                "baseline: Mean",
                "objective: OTR",
                "objective: [otr]",
                "kernel: cuda",
            ),
            *("estimator: Exact", "chunk_tokens: 0", "chunk_tokens: true"),
        )
    ),
    *(
        Recipe(_block(f"otr:\n  {first}\n  {name}: {value}\n"), name, (4,))
        for first, name, value in (
            ("estimator: exact", "samples", 16),
            *(
                (f"objective: {objective}", name, value)
                for objective in ("sft", "dft")
                for name, value in (
                    ("samples", 16),
                    ("temperature", 2),
                    ("beta", 0),
                    ("top_k", 5),
                    ("top_p", 0.5),
                    ("baseline", "mean"),
                    ("estimator", "exact"),
                )
            ),
            *(("baseline: mean", name, value) for name, value in (("samples", 1), ("top_k", 1), ("top_p", 0.05))),
        )
    ),
    # The command line.
    Recipe(RIGHT, {"samples": 8}, command=["--otr.samples", "8"], hosts=("axolotl", "trl")),
    Recipe(RIGHT, {"samples": 8}, command=["--otr.samples=8"], hosts=("axolotl", "trl")),
    Recipe(RIGHT, {"samples": 8}, command=["otr.samples=8"], hosts=("llamafactory",)),
    Recipe(_setting("top_k: 5"), {"top_k": 8}, command=["--otr.top-k", "8"], hosts=("axolotl", "trl")),
    *(
        Recipe(_setting("top_k: 5"), {}, command=["--otr.top-k", word], hosts=("axolotl", "trl"))
        for word in ("none", "null", "None")
    ),
    Recipe(_setting("baseline: mean"), {}, command=["--otr.baseline", "none"], hosts=("axolotl", "trl")),
    Recipe(RIGHT, {}, command=["--otr.baseline=none", "--otr.samples=256"], hosts=("axolotl", "trl")),
    *(
        Recipe(text, word, command=command, hosts=("axolotl", "trl"))
        for text in (RIGHT, "")
        for command, word in (
            (["--otr.sampels", "3"], "sampels"),
            (["--otr.sampels=3"], "sampels"),
            (["--otr-samples", "3"], "otr-samples"),
            (["--otr_samples=3"], "otr_samples"),
            (["--otr", "{samples: 3}"], "--otr"),
            (["--otr={samples: 3}"], "--otr"),
            (["--OTR.samples", "3"], "OTR.samples"),
            (["otr.samples=3"], "otr.samples"),
        )
    ),
    Recipe(RIGHT, "samples", command=["--otr.samples", "0"], hosts=("axolotl", "trl")),
    Recipe("", ("otr", "plugins"), command=["--otr.samples", "16"], hosts=("axolotl", "trl")),
    *(
        Recipe(RIGHT, word, command=[word_given], hosts=("llamafactory",))
        for word_given, word in (
            ("otr.sampels=3", "sampels"),
            ("otr_samples=3", "otr_samples"),
            ("OTR.samples=3", "OTR"),
            ("--otr.samples=3", "otr"),
            ("otr=3", "otr"),
            ("otr.samples=0", "samples"),
            ("plugins=", "plugins"),
            ("plugins=[]", "plugins"),
            ("plugins=null", "plugins"),
        )
    ),
    *(
        Recipe(RIGHT, "plugins", command=["--plugins", value], hosts=("axolotl",))
        for value in (LIGER, "none", "null", "OTR")
    ),
    # Sweeps.
    Recipe(RIGHT, {"samples": 8}, sweep="otr.samples: [8]\n", hosts=("axolotl",)),
    Recipe(RIGHT, "sampels", sweep="otr.sampels: [8]\n", hosts=("axolotl",)),
    Recipe("", "otr", sweep="otr.samples: [8]\n", hosts=("axolotl",)),
    # The environment.
    *(
        Recipe(text, name, environment={name: "3"})
        for text in (RIGHT, "")
        for name in ("OTR_SAMPLES", "otr_samples", "OTR-SAMPLES", "OTRSAMPLES", "OTR_SAMPELS", "OTR_TOP_K")
    ),
    *(
        Recipe(text, name, hosts=("swift",), environment={name: "3"})
        for text in (IN_SWIFT, "")
        for name in ("OTR-SAMPLES", "OTRSAMPLES", "OTR_SAMPELS", "OTR__SAMPLES")
    ),
    Recipe("env: {OTR_SAMPLES: 3}\n", "OTR_SAMPLES", hosts=("trl",)),
    Recipe(RIGHT + "env: {OTR_SAMPLES: 3}\n", "OTR_SAMPLES", hosts=("trl",)),
    *(
        Recipe(text, word, environment={"ALLOW_EXTRA_ARGS": "1"}, hosts=("llamafactory",))
        for text, word in (
            ("Otr: {samples: 3}\n", "Otr"),
            ("plugin: [otr]\n", "plugin"),
            ("otr: {samples: 3}\n", "otr"),
            ("plugins: [otr]\notr_samples: 3\n", "otr_samples"),
            ("plugins: [OTR]\n", "OTR"),
        )
    ),
    Recipe("", None, environment={"ALLOW_EXTRA_ARGS": "1"}, hosts=("llamafactory",)),
    Recipe("", None, environment={"OTR_PLUGIN_TRACE": "0"}, hosts=(*PLUGIN_HOSTS, "swift")),
    Recipe("", None, environment={"NOTR_SAMPLES": "3"}, hosts=(*PLUGIN_HOSTS, "swift")),
    # ms-swift.
    Recipe(IN_SWIFT, {"samples": 16}, hosts=("swift",)),
    Recipe("loss_type: otr\n", {}, hosts=("swift",)),
    Recipe("loss_type: otr\n", {"samples": 16}, environment={"OTR_SAMPLES": "16"}, hosts=("swift",)),
    Recipe("", {}, command=["--loss_type", "otr"], hosts=("swift",)),
    Recipe("loss_type: otr\nENV: {OTR_TOP_K: null, OTR_BASELINE: none}\n", {}, hosts=("swift",)),
    Recipe(IN_SWIFT, {"samples": 3}, environment={"OTR_SAMPLES": "3"}, hosts=("swift",)),
    Recipe("ENV:\n  OTR_SAMPLES: 16\n", ("OTR_SAMPLES", "loss_type"), hosts=("swift",)),
    Recipe("", ("OTR_SAMPLES", "loss_type"), environment={"OTR_SAMPLES": "16"}, hosts=("swift",)),
    Recipe(IN_SWIFT, "loss_type", command=["--loss_type", "cross_entropy"], hosts=("swift",)),
    Recipe("loss_type: otr\nloss_type: cross_entropy\n", "loss_type", (1, 2), hosts=("swift",)),
    Recipe("loss_type: otr\nENV: {OTR_SAMPLES: 3}\nENV: {OTR_BETA: 0}\n", "ENV", (2, 3), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\n  OTR_SAMPLES: 3\n  OTR_SAMPLES: 16\n", "OTR_SAMPLES", (3, 4), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\nOTR_SAMPLES: 16\n", "OTR_SAMPLES", (3,), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\n\u00a0\u00a0OTR_SAMPLES: 16\n", "OTR_SAMPLES", (3,), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\n  OTR_SAMPLES: 16\n  otr_samples: 3\n", "otr_samples", (4,), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\n  OTR_SAMPELS: 16\n", "OTR_SAMPELS", (3,), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\n  OTR_SAMPLES: 0\n", "OTR_SAMPLES", (3,), hosts=("swift",)),
    Recipe("loss_type: otr\nENV:\n  OTR: {samples: 16}\n", "OTR", (3,), hosts=("swift",)),
    Recipe("loss_type: otr\nENV: {OTR_OBJECTIVE: sft, OTR_SAMPLES: 16}\n", "OTR_SAMPLES", (2,), hosts=("swift",)),
    *(
        Recipe(f"loss_type: {name}\n", ("loss_type",), (1,), hosts=("swift",))
        for name in ("OTR", "Otr", "otr_plugin", "\u043etr", "'otr '")
    ),
    *(
        Recipe(f"{IN_SWIFT}{line}\n", line.split(":")[0], hosts=("swift",))
        for line in ("plugins: [otr]", "otr: {samples: 3}", "otr_samples: 3", "OTR_SAMPLES: 3")
    ),
    *(Recipe(f"{line}\n", line.split(":")[0], hosts=("swift",)) for line in ("plugins: [otr]", "otr: {samples: 3}")),
    *(
        Recipe(IN_SWIFT, word, command=command, hosts=("swift",))
        for command, word in ((["--otr.samples", "3"], "otr.samples"), (["--otr_samples", "3"], "otr_samples"))
    ),
    Recipe(
        "loss_type: cross_entropy\nENV: {OTR_SAMPLES: 3}\n",
        ("otr",),
        command=["--loss_type", "otr_plugin"],
        hosts=("swift",),
    ),
    # After another recipe in the same process.
    Recipe(_plugins("[otr_plugin.OTRPlugin]"), {"samples": 16}, after_otr=True),
    Recipe(_plugins("[otr]"), {"samples": 16}, after_otr=True),
    Recipe("", None, after_otr=True, hosts=(*PLUGIN_HOSTS, "swift")),
    # Recipes without OTR, in which a word contains it or is it.
    Recipe("output_dir: ./outputs/otr\n", None, hosts=(*PLUGIN_HOSTS, "swift")),
    Recipe("run_name: otr\n", None, hosts=("llamafactory", "trl", "swift")),
    Recipe("wandb_name: otr\nnotre_dame: {samples: 3}\nhotrod: [otr]\n", None, hosts=("axolotl",)),
    *(Recipe(_block(f"{name}: {{samples: 16}}\n"), name, (2,)) for name in ("ort", "otrr", "oter")),
    Recipe(
        "ort: {samples: 16}\nplugins: [otr]\n",
        "ort",
        (1,),
        environment={"ALLOW_EXTRA_ARGS": "1"},
        hosts=("llamafactory",),
    ),
    Recipe(
        "plugins: axolotl.integrations.otr.OTRPlugin\n", "axolotl.integrations.otr.OTRPlugin", (1,), hosts=("axolotl",)
    ),
    Recipe(_block("otr:\n  otr: {nll_weight: 1e-05}\n"), "otr", (3,)),
    Recipe("dataset: otr\n", None, hosts=("llamafactory",)),
    Recipe("dataset_name: otr\n", None, hosts=("trl",)),
    Recipe("system: |\n  otr:\n    samples: 3\n  plugins: [otr]\n", None, hosts=("swift",)),
    Recipe("run_name: |\n  otr:\n    samples: 3\n", None, hosts=("llamafactory", "trl")),
    Recipe("# plugins: [otr]\n# otr: {samples: 3}\n", None, hosts=(*PLUGIN_HOSTS, "swift")),
    Recipe(f"plugins: [{LIGER}]\n", None, hosts=("axolotl",)),
]
