"""`otr compare`, on files that the real hosts wrote in runs of the quickstart's recipes for two epochs, shortened.

training_args.bin is no text: training_args.json has what it held, and `folder_of` packs it again.
"""

import html.parser
import json
import pickle
import random
import re
import shutil
import statistics
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_plugin.command.comparison import chart, comparable, course, events, page, run, settings, training_args
from otr_plugin.command.comparison.comparison import compare
from tests.command.driver import otr

RUNS = Path(__file__).parent / "runs"
HOSTS = ("axolotl", "llamafactory", "swift", "trl")


def packed(module, values):
    """What torch.save writes for an object of this module's class, as far as a reader can see."""
    return b"\x80\x02c" + module.encode() + b"\nArguments\n)\x81" + pickle.dumps(values, 2)[2:-1] + b"b."


def write_archive(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("training_args/data.pkl", content)


def folder_of(tmp_path, host, kind, name=None):
    folder = shutil.copytree(RUNS / host / kind, tmp_path / (name or kind))
    arguments = folder / "training_args.json"
    if arguments.exists():
        write_archive(folder / "training_args.bin", packed(**json.loads(arguments.read_text())))
    return folder


@pytest.fixture
def pair(tmp_path):
    return [folder_of(tmp_path, "axolotl", kind) for kind in ("sft", "otr")]


def change(path, edit):
    """Edit a JSON file in place."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def state_of(folder):
    (path,) = folder.rglob("trainer_state.json")
    return path


def verdicts(done):
    return {check["name"]: check["verdict"] for check in done.json["checks"]}


# What the hosts write


KNOWN = {
    "axolotl": ("example_configs/small/model", "example_configs/small/desc-wrong10.jsonl", "trained tokens", 16.81),
    "llamafactory": ("example_configs/small/model", "desc-wrong10", "input tokens", 5.1527),
    "swift": ("example_configs/small/model", "example_configs/small/desc-wrong10.jsonl", "steps", 7.23778),
    "trl": (None, None, "tokens", None),  # TRL writes neither, and its time only to the terminal
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_pair_of_each_host_is_comparable(tmp_path, host):
    folders = [folder_of(tmp_path, host, kind) for kind in ("sft", "otr")]
    done = otr("compare", *folders, "--json")
    found = done.json
    model, data, unit, seconds = KNOWN[host]
    assert done.exit_code == found["exit_code"] == 0
    assert [each["host"] for each in found["runs"]] == [host, host]
    assert [each["name"] for each in found["runs"]] == ["sft", "otr"]
    assert (found["runs"][1]["model"], found["runs"][1]["data"]) == (model, data)
    assert found["runs"][1]["seconds"] == seconds
    assert found["runs"][1]["seeds"]["seed"] == 7
    assert found["runs"][1]["tokens"]["micro-batch"] == 32
    assert found["runs"][1]["otr"]["samples"] == 256
    assert found["runs"][0]["otr"] is None
    assert found["differences"] == {"otr": [{"setting": "loss", "values": ["the host's own", "otr"]}], "settings": []}
    assert set(verdicts(done).values()) <= {"same"} | ({"not recorded"} if host == "trl" else set())
    assert found["nll"]["unit"] == unit
    assert [part["differences"][0] > 0 for part in found["nll"]["stretches"]] == [True] * 4
    assert found["metrics"]["otr/hit_rate"][0] is None
    assert 0 < found["metrics"]["otr/hit_rate"][1] < 1


def test_the_same_examples_are_seen_by_their_tokens(tmp_path):
    """TRL writes no name of a data set, but counts of tokens."""
    folders = [folder_of(tmp_path, "trl", kind) for kind in ("sft", "otr")]
    (data,) = [each for each in otr("compare", *folders, "--json").json["checks"] if each["name"] == "data"]
    assert (data["verdict"], data["evidence"]) == ("same", "as many tokens at 10 of 10 logged steps")

    def other(state):
        state["log_history"][3]["num_tokens"] += 1

    change(state_of(folders[1]), other)
    done = otr("compare", *folders, "--json")
    assert (done.exit_code, verdicts(done)["data"]) == (1, "differs")


def test_a_counter_that_a_resume_has_changed_is_no_other_data(pair):
    """Axolotl counts otherwise after a resume; equal steps are equal tokens all the same."""

    def resumed(state):
        for entry in state["log_history"]:
            if entry["step"] > 20 and "tokens/trainable" in entry:
                entry["tokens/trainable"] -= 57

    change(state_of(pair[1]), resumed)
    done = otr("compare", *pair, "--json")
    assert (done.exit_code, done.json["nll"]["unit"]) == (0, "steps")
    assert [part["end"] for part in done.json["nll"]["stretches"]] == [10.0, 22.0, 32.0, 44.0]
    (data,) = [each for each in done.json["checks"] if each["name"] == "data"]
    assert data["evidence"] == "as many trained tokens at 21 of 22 logged steps"


def test_the_first_step_shows_another_model_or_batch(tmp_path):
    folders = [folder_of(tmp_path, "swift", kind) for kind in ("sft", "otr")]
    assert verdicts(otr("compare", *folders, "--json"))["NLL of step 1"] == "same"

    def other(state):
        state["log_history"][0]["loss"] *= 1.02

    change(state_of(folders[0]), other)
    done = otr("compare", *folders, "--json")
    assert (done.exit_code, verdicts(done)["NLL of step 1"]) == (1, "differs")


def test_the_record_of_the_plugin_comes_first(pair):
    record = {
        "host": "axolotl",
        "recipe": {"base_model": "m", "datasets": [{"path": "d"}], "learning_rate": 0.5, "otr": {"samples": 16}},
        "otr": {"objective": "otr", "samples": 16},
        "packages": {"torch": "9.9"},
        "seeds": {"seed": 3, "data_seed": None, "draws": 3},
        "processes": 2,
        "hardware": {"accelerator": "a GPU"},
        "data": {"fingerprint": "f00"},
        "seconds": 4.4,
        "peak_memory": {"process": 1, "device_allocated": 3 * 2**30},
    }
    (pair[1] / "otr_run.json").write_text(json.dumps(record))
    done = otr("compare", *pair, "--json")
    found = done.json["runs"][1]
    assert (found["model"], found["otr"]["samples"], found["seeds"]["seed"]) == ("m", 16, 3)
    assert (found["hardware"], found["peak_gib"]) == ("a GPU", 3.0)
    assert found["seconds"] == 16.81, "of debug.log, which the other run has too"
    unlike = {name for name, verdict in verdicts(done).items() if verdict == "differs"}
    assert unlike == {"model", "data", "seed", "versions"}
    assert {"setting": "samples", "values": [None, 16]} in done.json["differences"]["otr"]
    assert done.json["differences"]["settings"] == [], "a record of one run only is compared with none"
    (pair[0] / "otr_run.json").write_text(json.dumps(record | {"recipe": {"learning_rate": 0.25}, "seconds": 2.2}))
    done = otr("compare", *pair, "--json")
    assert {"setting": "learning_rate", "values": [0.25, 0.5]} in done.json["differences"]["settings"]
    assert "attn_implementation" not in str(done.json["differences"]), "the records replace the recipes in the cards"


def test_a_run_that_goes_on_is_read_from_its_log(tmp_path):
    for host, log in {"swift": "logging.jsonl", "llamafactory": "trainer_log.jsonl"}.items():
        folder = folder_of(tmp_path, host, "otr", f"{host}-otr")
        (folder / log).write_text((folder / log).read_text() + '{"loss": 1.0, "epo')  # half a line
        shutil.rmtree(folder / "checkpoint-44", ignore_errors=True)
        (folder / "trainer_state.json").unlink(missing_ok=True)
        found = run.read(folder)
        assert (len(found.log), found.planned_steps, found.is_finished) == (
            {"swift": 10, "llamafactory": 9}[host],
            44,
            False,
        )
        assert (found.otr == {}) == (host == "swift")  # LLaMA-Factory's log does not have the metrics
    whole = folder_of(tmp_path, "swift", "sft")
    done = otr("compare", whole, tmp_path / "swift-otr")
    assert "- swift-otr: is at step 18 of 44: unfinished, or stopped" in done.stdout
    assert "otr, settings not recorded yet" in done.stdout


def test_a_checkpoint_that_is_half_written_is_as_if_absent(pair):
    half = pair[1] / "checkpoint-50"
    half.mkdir()
    (half / "trainer_state.json").write_text('{"global_step": 50, "log_hi')
    assert otr("compare", *pair).exit_code == 2  # its own newest state cannot be read


# What is not comparable


def edit_readme(old, new):
    def edit(folder):
        card = folder / "README.md"
        assert old in card.read_text()
        card.write_text(card.read_text().replace(old, new))

    return edit


def edit_state(**values):
    return lambda folder: change(state_of(folder), lambda state: state.update(values))


CHANGES = {
    "model": edit_readme("base_model: example_configs/small/model", "base_model: other"),
    "data": edit_readme("desc-wrong10", "desc-wrong30"),
    "seed": edit_readme("\nseed: 7", "\nseed: 8"),
    "tokens": edit_readme("sequence_len: 64", "sequence_len: 65"),
    "versions": edit_readme("Transformers 5.16.1", "Transformers 5.16.2"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_makes_runs_incomparable(pair, name):
    CHANGES[name](pair[1])
    done = otr("compare", *pair)
    assert done.exit_code == 1
    assert done.stdout.startswith(f"Not comparable because of {name}: ")
    found = otr("compare", *pair, "--json").json["checks"]
    assert [check["name"] for check in found if check["verdict"] == "differs"] == [name]


def test_other_numbers_of_steps_are_other_tokens(pair):
    edit_state(max_steps=88)(pair[1])
    done = otr("compare", *pair)
    assert (done.exit_code, "tokens: steps 44 / steps 88" in done.stdout) == (1, True)


def test_another_setting_is_told_and_is_no_problem(pair):
    edit_readme("learning_rate: 0.001\n", "learning_rate: 0.002\n")(pair[1])
    done = otr("compare", *pair)
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        "Comparable, and the loss is not all that differs: learning_rate",
    )


def test_what_no_file_says_is_not_guessed(pair):
    for folder in pair:
        (folder / "README.md").unlink()
    done = otr("compare", *pair)
    assert done.exit_code == 3
    assert done.stdout.startswith("Cannot tell whether the runs are comparable: model, seed")


def test_a_setting_counts_as_missing_only_where_its_file_is_there(pair):
    edit_readme("attn_implementation: sdpa\n", "")(pair[1])
    settings = otr("compare", *pair, "--json").json["differences"]["settings"]
    assert settings == [{"setting": "attn_implementation", "values": ["sdpa", None]}]
    (pair[1] / "README.md").unlink()
    assert otr("compare", *pair, "--json").json["differences"]["settings"] == []


# The NLL


def test_a_loss_that_is_no_nll_is_not_compared(pair):
    edit_readme("seed: 7\n", "seed: 7\nuse_eaft: true\n")(pair[0])
    found = otr("compare", *pair, "--json").json
    assert (found["nll"]["runs"], found["nll"]["stretches"]) == ([1], [])
    assert (
        "sft: `loss` is no NLL: `use_eaft: True`: it is EAFT's objective; only its eval_loss is compared"
        in found["notes"]
    )
    assert found["evaluations"][-1] == {"step": 44, "losses": pytest.approx([0.8043, 5.2335], abs=1e-4)}


def test_a_loss_far_from_otrs_nll_is_replaced_by_it(pair):
    def objective(state):
        for entry in state["log_history"]:
            if "otr/nll" in entry:
                entry["loss"] = entry["otr/objective"]

    before = otr("compare", *pair, "--json").json["nll"]["stretches"]
    change(state_of(pair[1]), objective)
    found = otr("compare", *pair, "--json").json
    assert any("otr: `loss` is no NLL" in note for note in found["notes"])
    for one, other in zip(before, found["nll"]["stretches"], strict=True):
        assert other["means"][1] == pytest.approx(one["means"][1], rel=0.02)


def test_two_runs_with_otr_are_compared_by_its_metric(tmp_path):
    folders = [folder_of(tmp_path, "axolotl", "otr", name) for name in ("a", "b")]
    found = otr("compare", *folders, "--json").json
    assert found["notes"][0] == "NLL: `otr/nll` of all runs"
    assert [part["differences"] for part in found["nll"]["stretches"]] == [[0.0]] * 4
    assert [part["errors"] for part in found["nll"]["stretches"]] == [[0.0]] * 4


def test_values_that_are_not_finite_are_left_out_and_counted(pair):
    def broken(state):
        for entry in [entry for entry in state["log_history"] if "loss" in entry][5:8]:
            entry["loss"] = entry["otr/nll"] = float("nan")

    change(state_of(pair[1]), broken)
    found = otr("compare", *pair, "--json")
    assert "NaN" not in found.stdout
    assert "otr: at 3 of 22 logged steps, `loss` is not finite; they are left out" in found.json["notes"]


lengths = st.lists(st.integers(1, 50), min_size=2, max_size=30)


@given(lengths, lengths, st.randoms(use_true_random=False))
def test_means_over_equal_stretches_are_those_of_every_single_token(first, second, draw):
    """Against the plain way: a value for every token, and the mean of those in the stretch."""
    courses, tokens = [], []
    for spans in (first, second):
        values = [draw.uniform(-3, 9) for _ in spans]
        ends = [sum(spans[: i + 1]) for i in range(len(spans))]
        courses.append(course.Course([float(end) for end in ends], values))
        tokens.append([value for value, span in zip(values, spans, strict=True) for _ in range(span)])
    for part in course.stretches(courses):
        if not (part.start.is_integer() and part.end.is_integer()):
            continue
        for mean, each in zip(part.means, tokens, strict=True):
            assert mean == pytest.approx(statistics.fmean(each[int(part.start) : int(part.end)]), abs=1e-9)


@pytest.mark.parametrize("likeness", [0.0, 0.5, 0.8])
def test_the_standard_error_is_the_spread_of_means_of_alike_neighbours(likeness):
    draw = random.Random(1)
    means, errors = [], []
    for _ in range(600):
        values, last = [], draw.gauss(0, 1)
        for _ in range(200):
            last = likeness * last + (1 - likeness**2) ** 0.5 * draw.gauss(0, 1)
            values.append(last)
        means.append(statistics.fmean(values))
        errors.append(course.standard_error(values))
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(means), rel=0.12)


def test_few_pairs_have_no_standard_error():
    assert course.standard_error([1.0] * 4) is None
    assert course.standard_error([2.0] * 5) == 0.0


def test_runs_that_log_at_other_steps_are_compared_over_the_same_tokens(pair):
    """Every second entry is merged into the one before it, as a host does that logs half as often."""

    def merge(state):
        log = [entry for entry in state["log_history"] if "loss" in entry]
        merged, before = [], 0
        for first, second in zip(log[::2], log[1::2], strict=True):
            a, b = first["tokens/trainable"] - before, second["tokens/trainable"] - first["tokens/trainable"]
            before = second["tokens/trainable"]
            merged.append(second | {"loss": (a * first["loss"] + b * second["loss"]) / (a + b)})
        state["log_history"] = merged

    change(state_of(pair[1]), merge)
    found = compare(pair)
    whole = course.course_of(run.read(RUNS / "axolotl" / "otr").log, "loss", "tokens/trainable")
    assert [part.means[1] for part in found.nll] == pytest.approx([whole.mean(p.start, p.end) for p in found.nll])


def test_other_batch_sizes_are_compared_by_epochs(tmp_path):
    folders = [folder_of(tmp_path, "swift", kind) for kind in ("sft", "otr")]
    arguments = folders[1] / "training_args.json"
    change(arguments, lambda each: each["values"].update(per_device_train_batch_size=16))
    write_archive(folders[1] / "training_args.bin", packed(**json.loads(arguments.read_text())))
    done = otr("compare", *folders, "--json")
    assert (done.exit_code, done.json["nll"]["unit"]) == (1, "epochs")


# Files of strangers


class Attack:
    def __reduce__(self):
        return print, ("this ran",)


PICKLES = {
    "a call": pickle.dumps(Attack(), 2),
    "a call among the arguments": packed("trl.args", {"seed": Attack()}),
    "a call by its name": b"cos\nsystem\n(S'touch ran'\ntR.",
    "memory": b"\x80\x04]r\xff\xff\xff\x7f.",
    "many bytes": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "no end": b"\x80\x02(((((",
    "nothing on the stack": b"\x80\x02tRb.",
    "itself": b"\x80\x02}q\x00U\x01ah\x00s.",
    "nothing": b"",
}


@pytest.mark.parametrize("name", PICKLES)
def test_nothing_in_a_pickle_runs(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "a.bin", PICKLES[name])
    found = training_args.read(tmp_path / "a.bin")
    assert found in (None, ({}, "__builtin__"), ({"seed": "this ran"}, "trl.args"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert capsys.readouterr().out == ""


def test_arguments_that_are_too_large_are_left_out(tmp_path):
    write_archive(tmp_path / "bomb.bin", packed("trl.args", {"x": "0" * 10_000_000}))
    assert (tmp_path / "bomb.bin").stat().st_size < 100_000
    assert training_args.read(tmp_path / "bomb.bin") is None
    (tmp_path / "text.bin").write_text("text")
    assert training_args.read(tmp_path / "text.bin") is None


def test_a_record_of_any_form_is_read(pair):
    """A stranger's file may hold anything."""
    deep = '{"a": ' * 100_000 + "1" + "}" * 100_000
    for content in (
        "[]",
        "3",
        deep,
        '{"recipe": 3, "otr": [], "packages": 1, "seeds": 2, "data": "x", "seconds": "y"}',
    ):
        (pair[1] / "otr_run.json").write_text(content)
        assert otr("compare", *pair).exit_code == 0
    (pair[1] / "otr_run.json").write_text('{"recipe": ' * 900 + "{}" + "}" * 900)
    assert otr("compare", *pair).exit_code == 0


def test_odd_entries_of_a_log_are_left_out(pair):
    odd = [1, None, {"step": None, "loss": 1.0}, {"loss": 2.0}, {"step": 3, "loss": "text"}, {"step": 4, "loss": []}]
    change(state_of(pair[1]), lambda state: state["log_history"].extend(odd))
    assert otr("compare", *pair).exit_code == 0
    change(state_of(pair[1]), lambda state: state.update(log_history="text", max_steps="many", stateful_callbacks=[]))
    assert otr("compare", *pair).exit_code == 2


# What is printed and written


class Tags(html.parser.HTMLParser):
    EMPTY = ("meta",)

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in (*self.EMPTY, "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_one_file_without_script_or_network(pair, tmp_path):
    named = pair[1].rename(tmp_path / "<script>alert(1)<")
    out = tmp_path / "page.html"
    assert otr("compare", pair[0], named, "--html", out).exit_code == 0
    source = out.read_text()
    tags = Tags()
    tags.feed(source)
    assert tags.open == []
    names = {tag for tag, _ in tags.seen}
    assert "script" not in names
    assert not names & {"link", "img", "iframe", "object", "image", "use"}
    assert not re.search(r"url\(|@import|https?://|\bon\w+=", source)
    assert not any({"src", "href", "xlink:href"} & attributes.keys() for _, attributes in tags.seen)
    assert sum(tag == "svg" for tag, _ in tags.seen) == 3 + 7
    text = "".join(tags.text)
    assert "NLL minus that of sft, by quarters ± standard error" in text
    assert "prefers-color-scheme: dark" in source


def test_the_page_has_the_difference_first(pair):
    source = page.written(compare(pair))
    places = [source.index(title) for title in ("What differs", "Comparable?", "NLL per token in training", "Cost")]
    assert places == sorted(places)


def test_every_point_is_inside_its_chart(pair):
    source = page.written(compare(pair))
    for box, drawing in re.findall(r'<svg viewBox="0 0 (\d+ \d+)"(.*?)</svg>', source, re.DOTALL):
        width, height = map(int, box.split())
        for d in re.findall(r'class="line [^"]*" d="M([^"]+)"', drawing):
            for x, y in (point.split() for point in d.split("L")):
                assert 0 <= float(x) <= width
                assert 0 <= float(y) <= height


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12))
def test_round_numbers_are_between_the_bounds_and_few(low, span):
    found = chart.round_numbers(low, low + span, 6) if low + span > low else []
    assert len(found) <= 7
    assert all(low - 1e-6 * span <= value <= low + span + 1e-6 * span for value in found)


@pytest.mark.skipif(find_spec("matplotlib") is not None, reason="matplotlib is installed here")
def test_a_picture_needs_matplotlib(pair, tmp_path):
    done = otr("compare", *pair, "--png", tmp_path / "a.png")
    assert (done.exit_code, "`pip install matplotlib`, or use --html" in done.stderr) == (3, True)


def test_markdown_has_every_table(pair):
    done = otr("compare", *pair, "--md")
    assert done.exit_code == 0
    tables = re.findall(r"^### (.+)$", done.stdout, re.MULTILINE)
    assert tables == [
        "What differs",
        "Comparable?",
        "NLL per token at equal trained tokens",
        "NLL on the evaluation data (eval_loss)",
        "OTR's metrics, mean of the last quarter",
        "Cost",
    ]
    for table in re.findall(r"(?:^\|.*\n)+", done.stdout, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert otr("compare", *pair, "--md", "--json").exit_code == 2


def test_json_is_stable(pair):
    """Programs read it: another shape needs another schema_version."""
    found = otr("compare", *pair, "--json").json
    assert list(found) == [
        *("schema_version", "runs", "differences", "checks", "nll", "evaluations", "metrics", "notes", "exit_code")
    ]
    assert list(found["nll"]["stretches"][0]) == ["start", "end", "means", "differences", "errors", "pairs"]
    assert list(found["checks"][0]) == ["name", "verdict", "values", "evidence"]


def test_three_runs_are_compared_with_the_first(pair, tmp_path):
    third = shutil.copytree(pair[1], tmp_path / "third")
    done = otr("compare", *pair, third)
    assert done.exit_code == 0
    assert "otr \N{MINUS SIGN} sft" in done.stdout
    assert "third \N{MINUS SIGN} sft" in done.stdout


# Errors


def test_what_is_no_run(tmp_path, pair):
    assert otr("compare", pair[0]).exit_code == 2
    done = otr("compare", pair[0], tmp_path / "none")
    assert (done.exit_code, "there is no such folder: name the output_dir of a run" in done.stderr) == (2, True)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (
        "holds no log of a run: a run has one of otr_run.json, trainer_state.json"
        in otr("compare", pair[0], empty).stderr
    )
    around = otr("compare", pair[0], tmp_path)
    assert (around.exit_code, "holds several runs: name one of otr, sft" in around.stderr) == (2, True)
    (tmp_path / "file").write_text("")
    assert "is no folder" in otr("compare", pair[0], tmp_path / "file").stderr
    assert "cannot be written" in otr("compare", *pair, "--html", tmp_path / "none" / "a.html").stderr


def test_a_folder_with_one_run_is_that_run(pair, tmp_path):
    (tmp_path / "around").mkdir()
    shutil.move(pair[1], tmp_path / "around" / "v0-20261122-021500")  # as ms-swift names it
    assert otr("compare", pair[0], tmp_path / "around").exit_code == 0


@pytest.mark.skipif(events.can_read(), reason="the package tensorboard is installed here")
def test_events_need_the_package_tensorboard(pair, tmp_path):
    folder = tmp_path / "events"
    (folder / "runs").mkdir(parents=True)
    (folder / "runs" / "events.out.tfevents.1.host").write_bytes(b"")
    done = otr("compare", pair[0], folder)
    assert (done.exit_code, "`pip install tensorboard`, or run otr where it is" in done.stderr) == (2, True)


def test_a_comparison_imports_nothing_heavy(pair):
    before = set(sys.modules)
    compare(pair)
    assert not {"tensorboard", "matplotlib", "numpy"} & (set(sys.modules) - before)


def test_hosts_settings_that_are_names_are_no_difference():
    for name in (
        "output_dir",
        "run_name",
        "logging_dir",
        "hub_model_id",
        "wandb_project",
        "dataset_prepared_path",
        "hub_token",
        "swanlab_api_key",
    ):
        assert settings.NAMES_ONLY.match(name)
    for name in ("learning_rate", "optim", "datasets", "lora_r"):
        assert not settings.NAMES_ONLY.match(name)


def test_the_verdicts_are_few():
    assert {comparable.SAME, comparable.DIFFERS, comparable.UNKNOWN} == {"same", "differs", "not recorded"}
