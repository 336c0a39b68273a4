"""`otr share`: what a run was, without secrets and paths of one machine; and `otr share --verify`."""

import json
import os
import pickle
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otr_plugin import OTRConfig
from otr_plugin.command.placeholders import Placeholders
from otr_plugin.hosts.recipe_text import RecipeText
from otr_plugin.hosts.resources import resources_of
from otr_plugin.hosts.run_record import RECORD_FILE, RunRecord, remember, with_options
from otr_plugin.hosts.secrets import without_secrets, words_without_secrets
from otr_plugin.hosts.swift.recipe import resolved_recipe
from tests.command.driver import otr

FILES = ["README.md", "SHA256SUMS", "recipe-without-otr.yaml", "recipe.yaml", "run.json"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAIN = {
    "axolotl": {"base_model": "model", "sequence_len": 64, "datasets": [{"path": "data.jsonl", "ds_type": "json"}]},
    "llamafactory": {"model_name_or_path": "model", "stage": "sft", "dataset_dir": ".", "dataset": "sums"},
    "trl": {"model_name_or_path": "model", "dataset_name": "org/data"},
    "swift": {"model": "model", "tuner_type": "full", "dataset": ["data.jsonl#500"]},
}
OTR = {
    host: {"loss_type": "otr", "ENV": {"OTR_SAMPLES": 8}}
    if host == "swift"
    else {"plugins": ["otr"], "otr": {"samples": 8}}
    for host in PLAIN
}
quick = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


def facts(**more):
    return {
        "otr": OTRConfig(samples=8).model_dump(),
        "seeds": {"seed": 3, "draws": 3},
        "tokenizer": {"name": "/home/somebody/model", "chat_template_sha256": "0" * 64},
        **more,
    }


def finished_run(folder, host, recipe):
    """What a run leaves in its folder; models and data are beside it."""
    run = folder / "out"
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "model" / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "data.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (folder / "sums.json").write_text("[]")
    (folder / "dataset_info.json").write_text('{"sums": {"file_name": "sums.json"}}')
    remember(host, recipe, run)
    record = RunRecord(str(run), pytest.fail)
    record.start(facts)
    record.finish(lambda: {"steps_done": 6, "peak_memory": {"process": 10**9}})
    (run / "model.safetensors").write_bytes(b"trained")
    log = [{"loss": 2.0, "otr/objective": -0.1, "step": 1}, {"loss": 1.5, "otr/objective": -0.2, "step": 2}]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    return run


def texts_of(folder):
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("host", PLAIN)
def test_a_run_is_shared_and_verified(host, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path, host, PLAIN[host] | OTR[host] | {"output_dir": "out"})
    (run / "training_args.bin").write_bytes(pickle.dumps(Unpickled()))
    done = otr("share", run, "-o", "shared", "--json")
    assert (done.exit_code, done.json["host"]) == (0, host)
    texts = texts_of(Path("shared"))
    assert list(texts) == FILES
    assert yaml.safe_load(texts["recipe.yaml"]) == PLAIN[host] | OTR[host] | {"output_dir": "out"}
    twin = PLAIN[host] | {"output_dir": "out-sft"}
    assert {k: v for k, v in yaml.safe_load(texts["recipe-without-otr.yaml"]).items() if v} == twin
    described = json.loads(texts["run.json"])
    assert described["run_info"]["seeds"] == {"seed": 3, "draws": 3}
    assert described["train_info"]["steps"] == 6
    assert [entry["loss"] for entry in described["train_info"]["metrics"]] == [2.0, 1.5]
    files = described["meta_info"]["model_info"]["model"]["files"]
    assert files.keys() == {"config.json", "model.safetensors"}
    data = described["meta_info"]["dataset_info"]
    assert [bool(source["files"]) for source in data.values()] == [host != "trl"] * len(data) != []
    assert "-0.2" in texts["README.md"]
    for recipe in ("recipe.yaml", "recipe-without-otr.yaml"):
        assert otr("check", Path("shared") / recipe, "--strict").exit_code == 0
    code = 3 if host == "trl" else 0  # org/data is not in the hub's cache
    assert otr("share", "--verify", "shared").exit_code == code
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd="shared", check=False).returncode == 0
    assert otr("share", run, "-o", "shared").exit_code == 0, "it may be written again"
    assert not Path("unpickled").exists()


class Unpickled:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_verify_notices_one_flipped_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path, "axolotl", PLAIN["axolotl"] | OTR["axolotl"] | {"output_dir": "out"})
    assert otr("share", run, "-o", "shared").exit_code == 0
    named = ["model/config.json", "model/model.safetensors", "data.jsonl", "out/model.safetensors"]
    paths = [Path("shared") / name for name in FILES] + [Path(name) for name in named]

    @quick
    @given(st.sampled_from(paths), st.integers(0), st.integers(1, 255))
    def check(path, place, change):
        whole = path.read_bytes()
        place %= len(whole)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
        done = otr("share", "--verify", "shared", "--json")
        path.write_bytes(whole)
        assert done.exit_code == 1
        differing = {each["name"] for each in done.json["checks"] if each["state"] == "differs"}
        assert path.name == "SHA256SUMS" or differing & {path.name, str(path)}

    check()
    assert otr("share", "--verify", "shared").exit_code == 0
    Path("data.jsonl").write_text("other\n")
    assert "bytes instead of" in otr("share", "--verify", "shared").stdout
    Path("data.jsonl").unlink()
    assert otr("share", "--verify", "shared").exit_code == 3
    Path("shared/recipe.yaml").unlink()
    assert otr("share", "--verify", "shared").exit_code == 1


SECRETS = (
    "hf_AbCdEfGhIjKlMnOpQrSt",
    "sk-AbCdEfGhIjKlMnOpQrSt",
    "ghp_AbCdEfGhIjKlMnOpQrSt",
    "AKIAABCDEFGHIJKLMNOP",
    COMMIT[::-1],
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
)
SECRET_KEYS = ("wandb_api_key", "hub_token", "hf_token", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "api-key", "HF_TOKEN")
ADDRESSES = ("https://alice:s3cr3tpw@example.com/d", "https://example.com/d?v=1&sig=s3cr3tpw", "s3://k:s3cr3tpw@b/d")
HOMES = ("/home/alice", "/Users/alice", "C:\\Users\\alice", "/root/alice", "~alice")
words = st.text("abcdefgh ", max_size=8)
planted = st.one_of(
    st.builds(lambda a, secret, b: f"{a} {secret} {b}", words, st.sampled_from(SECRETS), words),
    st.builds(lambda a, address: f"{a} {address}", words, st.sampled_from(ADDRESSES)),
    st.builds(
        lambda home, name: f"{home}/{name}".rstrip("/"), st.sampled_from(HOMES), st.sampled_from(["m", "a b", ""])
    ),
    st.builds(lambda home: f"json:{home}/x,{home}/y", st.sampled_from(HOMES[:4])),
    st.builds(lambda home: f"see file://{home}/x", st.sampled_from(HOMES[:2])),
)
values = st.recursive(
    st.one_of(planted, st.integers(), st.booleans(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)
extras = st.dictionaries(st.text("xyz", min_size=1, max_size=5), values, max_size=5)


def test_no_secret_and_no_home_is_in_any_shared_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    @quick
    @given(st.sampled_from(sorted(PLAIN)), extras, st.sampled_from(SECRET_KEYS), planted)
    def check(host, extra, key, value):
        recipe = PLAIN[host] | OTR[host] | extra | {"output_dir": "/home/alice/out"}
        recipe["ENV"] = recipe.get("ENV", {}) | {key: "s3cr3tpw"}
        record = {
            "host": host,
            "recipe": recipe | {key: "s3cr3tpw"},
            "command": ["/home/alice/bin/train", f"--{key}", "s3cr3tpw", f"--{key}=s3cr3tpw", "--model", value],
            "folder": str(tmp_path),
            **facts(hardware={"note": value}),
        }
        Path("out").mkdir(exist_ok=True)
        Path("out", RECORD_FILE).write_text(json.dumps(record))
        Path("out", "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "note": value}]}))
        done = otr("share", "out", "-o", "shared")
        assert done.exit_code == 0, done.stderr
        for name, text in texts_of(Path("shared")).items():
            found = [word for word in (*SECRETS, "s3cr3tpw", "alice") if word in text.replace("local/alice", "")]
            assert not found, (name, found)
        assert otr("check", "shared/recipe.yaml", "--host", host).exit_code == 0

    check()


def test_placeholders_keep_what_is_below_another_path_below_it():
    places = Placeholders()
    recipe = {"a": "/data/x/sums.json", "b": ["/data/x", "/other/x"], "c": "</think>", "d": "../up/m", "e": "a/b"}
    recipe["f"] = f"/cache/models--org--m/snapshots/{COMMIT}"
    places.learn(recipe)
    assert places.in_value(recipe) == {
        "a": "local/x/sums.json",
        "b": ["local/x", "local/x-2"],
        "c": "</think>",
        "d": "local/m",
        "e": "a/b",
        "f": "local/models--org--m",
    }
    assert places.keys == {
        "local/x/sums.json": ["a"],
        "local/x": ["b[0]"],
        "local/x-2": ["b[1]"],
        "local/m": ["d"],
        "local/models--org--m": ["f"],
    }


def test_a_run_without_a_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path, "axolotl", PLAIN["axolotl"])
    (run / RECORD_FILE).unlink()
    done = otr("share", run, "-o", "shared")
    assert (done.exit_code, "Name the recipe with --recipe FILE" in done.stderr) == (3, True)
    assert not Path("shared").exists()
    Path("recipe.yaml").write_text(yaml.safe_dump(PLAIN["axolotl"]))
    done = otr("share", run, "-o", "shared", "--recipe", "recipe.yaml")
    assert (done.exit_code, "missing: otr_run.json" in done.stderr) == (0, True)
    assert list(texts_of(Path("shared"))) == [name for name in FILES if "without" not in name]
    assert otr("share", "--verify", "shared").exit_code == 0
    recipe = yaml.safe_dump(PLAIN["axolotl"])
    (run / "README.md").write_text(f"# A card\n\naxolotl version: `0.19.0`\n```yaml\n{recipe}\n```\n")
    done = otr("share", run, "-o", "shared")
    assert (done.exit_code, "missing: changes by the command line" in done.stderr) == (0, True)


def test_what_was_changed_after_the_run_has_no_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path, "axolotl", PLAIN["axolotl"] | OTR["axolotl"])
    Path("data.jsonl").write_text("other rows\n")
    done = otr("share", run, "-o", "shared")
    assert "missing: hashes of datasets[0].path: its files were changed after the run" in done.stderr
    assert otr("share", "--verify", "shared").exit_code == 3


def test_a_shared_folder_has_the_same_placeholder_wherever_its_files_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "folder"
    recipe = {"datasets": [{"path": f"{data}/data.jsonl"}], "dataset_prepared_path": str(data)}
    run = finished_run(tmp_path, "axolotl", PLAIN["axolotl"] | OTR["axolotl"] | recipe)
    otr("share", run, "-o", "shared")
    shared = yaml.safe_load(Path("shared/recipe.yaml").read_text())
    assert (shared["datasets"], shared["dataset_prepared_path"]) == (
        [{"path": "local/folder/data.jsonl"}],
        "local/folder",
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere", "-o", "shared"], 2, "is no folder: name the output folder of a run"),
        (["out"], 2, "name the folder to write: -o DIR"),
        (["out", "-o", "model"], 2, "exists, and holds other files than those of `otr share`"),
        (["out", "-o", "data.jsonl"], 2, "exists, and holds other files than those of `otr share`"),
        (["out", "-o", "data.jsonl/x"], 2, "cannot be written: Not a directory"),
        (["--verify", "out"], 2, "has no SHA256SUMS"),
        (["--verify", "out", "-o", "x"], 2, "--verify takes one folder"),
        (["broken", "-o", "x"], 2, "is no JSON of a run"),
    ],
)
def test_errors(words, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished_run(tmp_path, "axolotl", PLAIN["axolotl"] | OTR["axolotl"])
    Path("broken").mkdir()
    Path("broken", RECORD_FILE).write_text("[" * 100_000)
    done = otr("share", *words)
    assert (done.exit_code, message in done.stderr) == (code, True), done.stderr


def test_a_strangers_folder_makes_verify_read_nothing_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = finished_run(tmp_path, "axolotl", PLAIN["axolotl"] | OTR["axolotl"])
    otr("share", run, "-o", "shared")
    described = json.loads(Path("shared/run.json").read_text())
    (source,) = described["meta_info"]["dataset_info"].values()
    for name in ("/etc/passwd", "../../etc/passwd", "~/x"):
        source["name"] = name
        Path("shared/run.json").write_text(json.dumps(described))
        checks = {each["name"]: each["state"] for each in otr("share", "--verify", "shared", "--json").json["checks"]}
        assert (checks[name], checks["run.json"]) == ("cannot tell", "differs")
    Path("shared/run.json").write_text("[]")
    assert otr("share", "--verify", "shared").exit_code == 1


def test_the_record_of_a_run_that_did_not_end_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    remember("axolotl", PLAIN["axolotl"] | OTR["axolotl"] | {"hub_token": "s3cret"}, "out")
    RunRecord("out", pytest.fail).start(facts)
    text = Path("out", RECORD_FILE).read_text()
    assert "s3cret" not in text
    assert json.loads(text)["status"] == "started"
    otr("share", "out", "-o", "shared")
    assert json.loads(Path("shared/run.json").read_text())["train_info"]["status"] == "started"


def test_a_record_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    warnings = []
    for folder, function in ((tmp_path / "file", facts), (tmp_path / "out", lambda: 1 / 0)):
        record = RunRecord(str(folder), warnings.append)
        record.start(function)
        record.finish(dict)
    assert len(warnings) == 2
    assert all("could not be written, and `otr share` will lack it" in warning for warning in warnings)


def test_options_of_a_command_line_change_the_recipe():
    recipe = {"name": "010", "seed": 1, "lr": 0.1, "modules": ["a", "b"], "packing": False, "kwargs": {"a": 1}}
    words = [
        "--name",
        "010",
        "--config",
        "x",
        "--seed",
        "1",
        "--lr=0.2",
        "--modules",
        "c",
        "--packing",
        "--kwargs",
        '{"a": 1}',
    ]
    assert with_options(recipe, words, without=("config",)) == {
        "name": "010",
        "seed": 1,
        "lr": 0.2,
        "modules": ["c"],
        "packing": True,
        "kwargs": {"a": 1},
    }


def test_swifts_recipe_is_what_the_process_that_trains_was_given():
    text = RecipeText("model: m\nseed: 1\nloss_type: otr\nENV: {USE_HF: 1, OTR_SAMPLES: 8}\n", "r.yaml")
    words = ["--model", "m", "--seed", "1", "--loss_type", "otr", "--seed", "2"]
    environment = {"USE_HF": "1", "OTR_SAMPLES": "16", "OTR_BETA": "0", "HOME": "/"}
    assert resolved_recipe(text, words, environment) == {
        "model": "m",
        "seed": 2,
        "loss_type": "otr",
        "ENV": {"USE_HF": 1, "OTR_SAMPLES": "16", "OTR_BETA": "0"},
    }
    assert resolved_recipe(text, ["-m", "pytest"], {})["seed"] == 1


def test_a_model_of_a_hub_has_its_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    for kind, name in (("models", "org--m"), ("datasets", "org--d")):
        snapshot = tmp_path / f"{kind}--{name}" / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        (tmp_path / f"{kind}--{name}" / "refs").mkdir()
        (tmp_path / f"{kind}--{name}" / "refs" / "main").write_text(COMMIT)
    recipe = {
        "base_model": "org/m",
        "datasets": [{"path": "org/d"}, {"path": "org/d2"}, {"path": "org/m", "revision": "x"}],
    }
    found = {each.name: each.revision for each in resources_of(recipe, tmp_path)}
    assert found == {"org/m": COMMIT, "org/d": COMMIT, "org/d2": None}


def test_secrets_leave_commits_and_switches_alone():
    recipe = {"revision": COMMIT, "hub_token": True, "eos_token": "</s>", "path": f"/c/snapshots/{COMMIT}", "a": COMMIT}
    assert without_secrets(recipe) == (recipe | {"a": "SECRET"}, ["a"])
    words = ["train", "--hub-token", "x", "--seed", "3", "hf_token=y", f"--note=hf_{'a' * 20}"]
    assert words_without_secrets(words) == [
        *("train", "--hub-token", "SECRET", "--seed", "3", "hf_token=SECRET", "--note=SECRET")
    ]
