"""The quickstart's training examples and what its note states about the study."""

import json
import statistics
from collections import defaultdict

from benchmarks.paths import RESULTS
from benchmarks.quickstart.command import NOTE, STUDY_GAIN
from benchmarks.quickstart.data import TRAINING_FILE, questions_by_kind, training_lines
from benchmarks.string_skills import held_out


def sorted_downwards(question):
    return "".join(sorted(question.removeprefix("desc:").removesuffix("="), reverse=True))


def test_the_training_file_is_what_the_code_makes():
    assert TRAINING_FILE.read_text() == training_lines()


def test_a_tenth_of_the_answers_have_the_right_letters_in_a_wrong_order():
    rows = [json.loads(line) for line in TRAINING_FILE.read_text().splitlines()]
    wrong = [row for row in rows if row["completion"] != sorted_downwards(row["prompt"])]
    assert (len(rows), len(wrong)) == (768, 77)
    for row in wrong:
        right = sorted_downwards(row["prompt"])
        assert sorted(row["completion"]) == sorted(right) or len(set(right)) == 1


def test_test_questions_were_not_trained_and_their_answers_are_right():
    trained = {json.loads(line)["prompt"] for line in TRAINING_FILE.read_text().splitlines()}
    questions = questions_by_kind(300)
    assert {kind: len(pairs) for kind, pairs in questions.items()} == dict.fromkeys(questions, 300)
    assert not any(held_out(question) for question in trained)
    for pairs in questions.values():
        assert all(held_out(question) for question, _ in pairs)
    for kind, lengths in {"new skill": {3, 4, 5}, "harder cases": {6, 7}}.items():
        assert {len(answer) for _, answer in questions[kind]} == lengths
        assert all(answer == sorted_downwards(question) for question, answer in questions[kind])


def test_the_gain_in_the_note_is_the_studys():
    """The mean over seeds of OTR minus SFT, out of distribution, at the learning rate that both ran with."""
    accuracy = defaultdict(dict)
    for line in map(json.loads, (RESULTS / "learning.jsonl").read_text().splitlines()):
        if (line["size"], line["kind"], line.get("regime")) == ("cpu", "final", "wrong10"):
            accuracy[line["method"], line["rate"]][line["seed"]] = line["figures"]["far"]
    (rate,) = {rate for method, rate in accuracy if method == "SFT"}
    sft, otr = accuracy["SFT", rate], accuracy["OTR", rate]
    assert sft.keys() == otr.keys()
    assert round(100 * statistics.fmean(otr[seed] - sft[seed] for seed in sft)) == STUDY_GAIN
    assert f"+{STUDY_GAIN} points" in NOTE
