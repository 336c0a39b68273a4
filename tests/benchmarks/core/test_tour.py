"""The tour: what a terminal shows of a command, the kept recording, and its picture."""

import json
import re
import shlex
import sys
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from benchmarks.paths import RESULTS, ROOT
from benchmarks.tour import drawing
from benchmarks.tour.command import COMMANDS, LAST, MOST, RECIPE, hide, step
from benchmarks.tour.terminal import Screen, record
from otr_plugin.command.main import command

STEPS = json.loads((RESULTS / "tour.json").read_text())["steps"]


def test_the_recording_is_of_these_commands():
    """They exist: verbs and options of `otr`, and the recipe."""
    assert tuple(each["command"] for each in STEPS) == COMMANDS
    assert (ROOT / RECIPE).is_file()
    for words in (shlex.split(each) for each in COMMANDS if each.startswith("otr ")):
        verb = command.get_command(None, words[1])
        options = {option for each in verb.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= options


def test_the_recording_shows_no_folder_of_the_machine():
    for line in (line for each in STEPS for _, line in each["lines"]):
        assert not re.search(r"(?<![\w.~])/(bin|home|mnt|opt|root|tmp|usr|var|work|Users)/", line), line


def test_what_is_left_out_follows_the_rule():
    for each in STEPS:
        if each["left_out"]:
            assert each["left_out"] + LAST > MOST
            assert f"… {each['left_out']} lines" in each["lines"][0][1]
            assert len(each["lines"]) == 1 + LAST
        else:
            assert len(each["lines"]) <= MOST


def test_the_picture_is_that_of_the_recording():
    text = drawing.svg(STEPS)
    assert (RESULTS / "tour.svg").read_text() == text
    root = ElementTree.fromstring(text)
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert {element.tag.partition("}")[2] for element in root.iter()} == {
        "svg", "title", "style", "rect", "circle", "g", "text",
    }  # fmt: skip


def test_every_line_of_the_picture_comes_when_it_came_and_waits_are_shortened():
    steps = [{"command": "ab", "seconds": 100.0, "lines": [(0.5, "one"), (60.0, "two"), (60.5, "three")]}]
    lines, total = drawing.timed(steps)
    assert [line for _, line in lines[1:]] == ["one", "two", "three", ""]
    times = [when for when, _ in lines]
    assert [b - a for a, b in pairwise(times)] == pytest.approx([0.5, drawing.IDLE, 0.5, drawing.IDLE])
    assert total == pytest.approx(times[-1] + drawing.READING + drawing.END)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("one\r\ntwo\r\n", ["one", "two", ""]),
        ("10%\r50%\r100%\r\n", ["100%", ""]),
        ("a bar\n\x1b[1A\x1b[2Kdone\n", ["done", ""]),
        ("\x1b[?25l\x1b]0;title\x07x\x1b[1mbold\x1b[0m", ["x\x1b[1mbold\x1b[0m"]),
    ],
)
def test_a_screen_shows_what_was_written_last(written, shown):
    screen = Screen()
    screen.write(written, 1.0)
    assert screen.lines == shown


def test_a_command_runs_in_a_terminal(tmp_path):
    code = "import sys; print(sys.stdout.isatty()); import time; time.sleep(0.2); print('ü'); sys.exit(3)"
    found = record([sys.executable, "-c", code], tmp_path, {"PYTHONUTF8": "1"})
    assert (found.lines, found.exit_code) == (["True", "ü", ""], 3)
    assert 0 <= found.times[0] <= found.times[1] <= found.seconds
    assert found.seconds >= 0.2


def test_a_long_output_is_cut_and_folders_are_hidden(tmp_path):
    (tmp_path / "long.py").write_text("for i in range(50): print(i, __file__)")
    found = step(f"{sys.executable} {tmp_path}/long.py", tmp_path, {}, {str(tmp_path): "~"})
    shown = [line for _, line in found["lines"]]
    assert shown[1:] == [f"{i} ~/long.py" for i in range(50 - LAST, 50)]
    assert found["left_out"] == 50 - LAST
    with pytest.raises(SystemExit, match="ended with exit code 2"):
        step(f"{sys.executable} no.py", tmp_path, {}, {})


def test_the_longest_folder_is_hidden_first():
    assert hide("/a/b/c", {"/a": "~", "/a/b": "~/venv"}) == "~/venv/c"
