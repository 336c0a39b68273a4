"""`otr check` refuses what the hosts refuse, warns of what a stranger's recipe would do, and always ends."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from benchmarks.fuzz.cases import Refused
from benchmarks.paths import EXAMPLES
from otr_plugin import OTRConfig
from otr_plugin.command.data_level import Data, problems, warnings
from otr_plugin.command.gpus import GPUS, gpu_named
from otr_plugin.command.recipes import HOSTS
from otr_plugin.hosts.recipe_text import RecipeText
from tests.command.driver import otr
from tests.hosts.recipes_that_failed import RECIPES

AXOLOTL = "base_model: m\nsequence_len: 64\n"
# Axolotl imports a plugin before it says that there is none; the static level imports nothing.
NOT_IN_THE_TEXT = ("plugins: axolotl.integrations.otr.OTRPlugin",)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name} {path.stem}")
def test_every_example_is_good(path):
    (report,) = otr("check", path, "--json").json["recipes"]
    assert (report["exit_code"], report["host"], report["problems"]) == (0, path.parent.name, [])
    assert (report["settings"] is not None) == ("-otr" in path.stem)
    assert report["warnings"] == []


@pytest.mark.parametrize("host", HOSTS)
def test_a_recipe_that_failed_is_refused_if_the_hosts_reader_refuses_its_text(host, tmp_path):
    cases = [
        recipe.case(host)
        for recipe in RECIPES
        if host in recipe.hosts
        and not (recipe.command or recipe.environment or recipe.sweep or recipe.text.startswith(NOT_IN_THE_TEXT))
    ]
    assert len(cases) > 30
    paths = [tmp_path / str(i) / case.file for i, case in enumerate(cases)]
    for path, case in zip(paths, cases, strict=True):
        path.parent.mkdir()
        path.write_bytes(case.text.encode())
    reports = otr("check", *paths, "--json").json["recipes"]
    for report, case in zip(reports, cases, strict=True):
        if isinstance(case.outcome, Refused):
            assert report["exit_code"] != 0, case
            message = " ".join([report["error"] or "", *(problem["message"] for problem in report["problems"])])
            lines = [problem["line"] for problem in report["problems"]]
            message += "".join(f" x:{line}" for line in lines)
            problems = [refusal.problem_in(message) for refusal in case.outcome.refusals]
            assert None in problems, (problems, message, str(case))
        else:
            assert (report["exit_code"], report["host"]) == (0, host), case
            config = getattr(case.outcome, "config", None)
            assert report["settings"] == (config and config.model_dump()), case


PROBLEMS = """\
base_model: m
sequence_len: 64
plugins: [otr]
otr:
  sampels: 3
  beta: 7, or so
"""


def test_a_problem_has_its_place_its_value_what_is_allowed_and_what_to_do(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PROBLEMS)
    done = otr("check", recipe)
    assert done.exit_code == 1
    assert f"{recipe}:5: unknown key 'sampels': did you mean 'samples'?" in done.stdout
    assert f"{recipe}:6: beta should be a number, got '7, or so'" in done.stdout
    recipe.write_text(AXOLOTL + "plugins: [otr]\nrl: dpo\ncut_cross_entropy: true\n")
    found = otr("check", recipe, "--json").json["recipes"][0]["problems"]
    assert [problem["line"] for problem in found] == [4, 5]


def test_github_gets_workflow_commands(tmp_path):
    recipe = tmp_path / "a,b.yaml"
    recipe.write_text(PROBLEMS + "trust_remote_code: true\n")
    lines = otr("check", recipe, "--format", "github").stdout.splitlines()
    place = f"file={tmp_path}/a%2Cb.yaml,line="
    assert lines[0].startswith(f"::error {place}6,title=otr::beta should be")
    assert lines[1].startswith(f"::error {place}5,title=otr::unknown key 'sampels'")
    assert lines[2].startswith(f"::warning {place}7,title=otr::runs code: trust_remote_code: true")


PLAIN = {
    "axolotl": AXOLOTL + "plugins: [otr]\n",
    "llamafactory": "model_name_or_path: m\nstage: sft\nplugins: [otr]\n",
    "trl": "model_name_or_path: m\ndataset_name: d\nplugins: [otr]\n",
    "swift": "model: m\ntuner_type: full\nloss_type: otr\n",
}
ON_A_T4 = [
    ("axolotl", "bf16: true"),
    ("axolotl", "bf16: full"),
    ("axolotl", "flash_attention: true"),
    ("llamafactory", "pure_bf16: true"),
    ("llamafactory", "flash_attn: fa2"),
    ("trl", "bf16: true"),
    ("trl", "attn_implementation: flash_attention_2"),
    ("swift", "torch_dtype: bfloat16"),
    ("swift", "attn_impl: flash_attn"),
]


@pytest.mark.parametrize(("host", "line"), ON_A_T4)
def test_what_a_gpu_cannot_run_is_a_problem(tmp_path, host, line):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PLAIN[host] + line)
    assert [otr("check", recipe, "--gpu", gpu).exit_code for gpu in ("t4", "RTX 4090", "a100-40")] == [1, 0, 0]
    (report,) = otr("check", recipe, "--gpu", "Tesla V100 32GB", "--json").json["recipes"]
    (problem,) = report["problems"]
    assert problem["line"] == 4
    assert problem["message"].startswith(f"`{line.replace('true', 'True')}`: ")
    assert "needs sm_80, and Tesla V100 32GB has compute capability sm_70: " in problem["message"]
    recipe.write_text(PLAIN[host] + line.replace("true", "false").replace("full", "auto").split(" f")[0])
    assert otr("check", recipe).exit_code == 0


def test_other_rules_of_gpus(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PLAIN["trl"] + "otr: {kernel: triton}\nattn_implementation: flash_attention_3\n")
    codes = {gpu: len(otr("check", recipe, "--gpu", gpu, "--json").json["recipes"][0]["problems"]) for gpu in GPUS}
    assert codes["p100"] == 2
    assert codes["h100"] == codes["h200"] == 0
    assert codes["rtx4090"] == codes["b200"] == 1
    done = otr("check", recipe, "--gpu", "rtx409")
    assert (done.exit_code, "unknown GPU; did you mean rtx4090? known are" in done.stderr) == (2, True)


def test_gpus_are_consistent():
    for name, gpu in GPUS.items():
        assert name == gpu.name == gpu_named(gpu.title.upper()).name
        assert gpu.bf16 == (gpu.capability[0] >= 8)
        assert gpu.gib > 8
    assert (GPUS["rtx4090"].sm, GPUS["b200"].sm) == ("sm_89", "sm_100")


@pytest.mark.parametrize(
    "line",
    [
        "task_type: seq_cls",
        "tuner_backend: unsloth",
        "sequence_parallel_size: 2",
        "acc_strategy: seq",
    ],
)
def test_swifts_other_losses_are_found_in_the_text(tmp_path, line):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(PLAIN["swift"] + line)
    (report,) = otr("check", recipe, "--json").json["recipes"]
    (problem,) = report["problems"]
    assert (problem["line"], problem["message"].split("`")[1].lower()) == (4, line)
    recipe.write_text(PLAIN["swift"].replace("loss_type: otr\n", "") + line)
    assert otr("check", recipe).exit_code == 0
    allowed = "task_type: causal_lm\ntuner_backend: peft\nsequence_parallel_size: 1\nacc_strategy: token\n"
    recipe.write_text(PLAIN["swift"] + allowed + "loss_scale: last_round+react\nis_binary_loss_scale: false\n")
    assert otr("check", recipe).exit_code == 0


def test_figures_of_data_become_problems_and_warnings():
    good = Data(9, 0, 0, 64, 90, 30, 0, 0, [])
    assert problems(good) == []
    assert "the host dropped every row" in problems(Data(0, 9, 0, 64, 0, 0, 0, 0, []))[0]
    assert "no token of 9 rows is trained" in problems(replace(good, trained_tokens=0))[0]
    text, settings = RecipeText("seed: 1\notr: {samples: 8}\n", "r"), OTRConfig().model_dump()
    assert warnings(good, settings, text) == []
    new = replace(good, new_labels=5, new_tokens=[{"id": 64, "token": "<turn>", "count": 5}])
    (found,) = warnings(new, settings, text)
    assert (found.line, found.what) == (2, "5 trained tokens are new to the model: <turn>")
    assert warnings(new, settings | {"nll_weight": 0.1}, text) == warnings(new, None, text) == []
    assert (
        "2 of 9 rows have no trained token" in warnings(replace(good, rows_without_trained_token=2), None, text)[0].what
    )


STRANGE = {
    "trust_remote_code: true": "runs code",
    "plugins: [a.stranger.Plugin]": "runs code",
    "datasets: [{path: prepare.py}]": "runs code",
    "external_plugins: [mine/loss.py]": "runs code",
    "datasets: [{path: 'https://example.com/data.json'}]": "fetches",
    "base_model_config: org/model": "fetches",
    "output_dir: /home/author/out": "reads or writes outside",
    "output_dir: ~/out": "reads or writes outside",
    "dataset_prepared_path: ../prepared": "reads or writes outside",
    "resume_from_checkpoint: out/optimizer.pt": "unpickles",
    "lora_model_dir: adapter_model.bin": "unpickles",
    "hub_model_id: me/model": "uploads",
    "wandb_name: hf_AbCdEfGhIjKlMnOpQrSt": "secret",
    "# sk-AbCdEfGhIjKlMnOpQrSt": "secret",
    "wandb_key: 0123456789abcdef0123456789abcdef01234567": "secret",
    "hub_token: s3cret": "secret",
    "# https://me:s3cret@example.com": "secret",
    "ENV: {LD_PRELOAD: ./x.so}": "sets a variable",
    "seed: 1\nseed: 2": "duplicate",
}


@pytest.mark.parametrize("line", STRANGE)
def test_what_a_strangers_recipe_does_is_listed(tmp_path, line):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{AXOLOTL}{line}\n")
    done = otr("check", recipe, "--host", "axolotl", "--json")
    (report,) = done.json["recipes"]
    found = report["warnings"] + report["notes"]
    assert [each["kind"] for each in found] == [STRANGE[line]]
    assert found[0]["line"] in (3, 4)
    assert done.exit_code == 0
    is_note = bool(report["notes"])
    assert otr("check", recipe, "--host", "axolotl", "--strict").exit_code == (0 if is_note else 1)
    shown = otr("check", recipe, "--host", "axolotl").stdout
    assert STRANGE[line] in shown
    for secret in ("AbCdEfGhIjKlMnOpQrSt", "0123456789abcdef", "s3cret"):
        assert secret not in shown + done.stdout


def test_an_ordinary_recipe_gets_no_warning(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    revision = "revision_of_model: 0123456789abcdef0123456789abcdef01234567"
    recipe.write_text(f"{AXOLOTL}{revision}\ntrust_remote_code: false\nhub_token:\noutput_dir: ./outputs/a\n")
    assert otr("check", recipe, "--json").json["recipes"][0]["warnings"] == []


def test_the_worst_exit_code_wins(tmp_path):
    paths = {}
    for name, text in {"good": AXOLOTL, "problem": PROBLEMS, "unreadable": "a: [", "unknown": "seed: 1\n"}.items():
        paths[name] = tmp_path / name
        paths[name].write_text(text)
    codes = {name: otr("check", path).exit_code for name, path in paths.items()}
    assert codes == {"good": 0, "problem": 1, "unreadable": 2, "unknown": 3}
    assert otr("check", paths["good"], paths["unknown"]).exit_code == 3
    assert otr("check", paths["problem"], paths["unknown"]).exit_code == 1
    assert otr("check", *paths.values()).exit_code == 2
    assert otr("check").exit_code == 2


def laughs(merge):
    """Aliases that stand for 10^12 values."""
    lines = ["a0: &a0 {k: 1}" if merge else "a0: &a0 [x]"]
    for i in range(12):
        aliases = ", ".join([f"*a{i}"] * 10)
        lines.append(f"a{i + 1}: &a{i + 1} {{<<: [{aliases}]}}" if merge else f"a{i + 1}: &a{i + 1} [{aliases}]")
    return "\n".join([*lines, "plugins: *a12", "otr: *a12", "base_model: *a12", ""])


HOSTILE = {
    "a billion laughs": (laughs(False), "holds more than 20,000 values"),
    "a billion merges": (laughs(True), "holds more than 20,000 values"),
    "an alias of itself": ("a: &a [*a]\nplugins: *a\n", "an alias stands for a value that holds the alias"),
    "deep brackets": ("a: " + "[" * 100_000, "nested too deeply"),
    "deep and closed": ("a: " + "[" * 150 + "]" * 150, "nested too deeply"),
    "deep blocks": ("\n".join(" " * i + f"k{i}:" for i in range(500)), "nested too deeply"),
    "100 MB": (None, "bytes; a recipe has at most 262,144"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(20_000)), "holds more than 20,000 values"),
    "many duplicates": ("seed: 1\n" * 9_000, "has no key that tells which host"),
    "one long key": ("o" * 250_000 + ": 1\n", "not YAML"),
    "one long value": ("plugins: " + "otr" * 80_000 + "\n", "has no key that tells which host"),
    "UTF-16": ("base_model: m\n".encode("utf-16"), "is not UTF-8"),
    "Latin-1": ("base_model: m\nrun: ü\n".encode("latin-1"), "line 2 is not UTF-8"),
    "a NUL byte": ("base_model: m\nrun: a\0b\n", "line 2 has the character #x00"),
    "a tag": (
        "base_model: m\nx: !!python/object/apply:os.system ['touch /tmp/no']\n",
        "line 2: the tag 'python/object",
    ),
    "a tag of its own": ("x: !secret y\n", "line 1: the tag '!secret'"),
    "a syntax error": ("base_model: m\n  plugins: [otr\n", "line 2, column 10: is not YAML"),
    "no mapping": ("- otr\n", "has no settings: a recipe has lines such as"),
    "nothing": ("", "has no settings"),
    "a tab": ("base_model: m\nplugins:\n\t- otr\n", "line 3, column 1: is not YAML: found character '\\t' that cannot"),
    "a line indented alone": ("base_model: m\n  seed: 1\n", "not allowed here: indent the line as those around it"),
    "an open quote": ('base_model: "m\nseed: 1\n', "while scanning a quoted scalar that begins on line 1"),
    "two documents": ("base_model: m\n---\nbase_model: n\n", "is not YAML: but found another document"),
}
SECONDS, MEGABYTES = 20, 300  # of processor time, and of address space beyond what Python and the modules need


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_one_clear_error(tmp_path, name):
    content, words = HOSTILE[name]
    recipe = tmp_path / "recipe.yaml"
    if content is None:
        with recipe.open("wb") as file:
            file.truncate(100_000_000)
    else:
        recipe.write_bytes(content if isinstance(content, bytes) else content.encode())

    def limit():
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES * 10**6, MEGABYTES * 10**6))

    done = subprocess.run(
        [sys.executable, "-m", "otr_plugin.command", "check", str(recipe), "--json"],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (2, 3), done.stderr
    assert done.stderr == ""
    (report,) = json.loads(done.stdout)["recipes"]
    assert words in report["error"]
    assert len(report["error"]) < 500
    assert otr("add", recipe).exit_code == done.returncode


@pytest.mark.skipif(find_spec("axolotl") is not None, reason="Axolotl is installed here")
def test_the_host_level_needs_the_host(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(AXOLOTL)
    done = otr("check", recipe, "--level", "host")
    assert (done.exit_code, "Axolotl is not installed here: run otr where it is" in done.stdout) == (3, True)


def test_what_is_no_file(tmp_path):
    assert "there is no such file" in otr("check", tmp_path / "none.yaml").stdout
    assert "is no file: name a recipe" in otr("check", tmp_path).stdout
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert otr("check", fifo).exit_code == 2
