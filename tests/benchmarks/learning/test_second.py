"""The second edition of the study: its tasks, its runs, its intervals and its page."""

import random
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from benchmarks.learning import base_model, store
from benchmarks.learning.plan import SIZES
from benchmarks.learning.second import command, design, report, results, study, trial
from benchmarks.learning.second.design import BASES, METHODS, OTR, SFT, SMOOTHING, Trial
from benchmarks.learning.second.differences import difference, half_width
from benchmarks.learning.second.tasks import BELIEVED, NOISY_TASKS, RANDOM, REGIMES, TASKS, hand_of
from benchmarks.learning.tables import minus
from benchmarks.learning.vocabulary import TOKEN_IDS
from benchmarks.string_skills import SKILLS


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", NOISY_TASKS)
def test_both_kinds_of_noise_spoil_the_same_questions(name, seed):
    task = TASKS[name]
    clean = task.training_examples(seed, "", 0)
    random_ones, believed = (task.training_examples(seed, noise, 30) for noise in (RANDOM, BELIEVED))
    spoilt = [i for i, (a, b) in enumerate(zip(clean, random_ones, strict=True)) if a != b]
    assert spoilt == [i for i, (a, b) in enumerate(zip(clean, believed, strict=True)) if a != b]
    assert len(spoilt) == round(0.3 * len(clean))
    assert [q for q, _ in clean] == [q for q, _ in random_ones] == [q for q, _ in believed]
    for i in spoilt:
        question, right = clean[i]
        assert believed[i][1] == task.believed(question)
        assert random_ones[i][1] not in (right, believed[i][1])
        assert len(random_ones[i][1]) == len(right)


def test_a_believed_answer_is_that_of_a_skill_of_the_base_model():
    skills = {"sort": ("asc", "desc:bca=", "abc"), "map": ("rev", "revnext:bca=", "acb"), "sum": ("add", "", "")}
    for name, (skill, question, believed) in skills.items():
        assert skill in base_model.BASE_SKILLS
        if question:
            assert TASKS[name].believed(question) == believed
    body, total = SKILLS["add"](random.Random(0), 2)
    assert TASKS["sum"].believed(f"addrev:{body}=") == total


@pytest.mark.parametrize("name", TASKS)
def test_no_question_is_in_two_splits(name):
    task = TASKS[name]
    train = {task.split_by(question) for question, _ in task.training_examples(0, "", 0)}
    for shifted in (False, True):
        test = task.questions("test", design.QUESTIONS, shifted=shifted)
        assert len(test) == design.QUESTIONS
        assert not train & {task.split_by(question) for question, _ in test}
        assert set("".join(q + a for q, a in test)) <= set(TOKEN_IDS)


def test_a_hand_is_the_same_in_every_order():
    assert hand_of("make:j10q10k10:4,k,3>11=") == hand_of("make:j11q12k13:k,3,4>20=") == "3,4,k"


def test_the_runs_are_those_of_the_plan():
    runs = list(design.trials())
    assert len({run.key for run in runs}) == len(runs)
    finals = [run for run in runs if run.kind == "final"]
    at_rate = [run for run in finals if run.factor == 1]
    assert {run.seed for run in at_rate} == set(range(10))
    for regime in REGIMES:
        of_regime = [run for run in at_rate if run.regime == regime]
        assert {run.base for run in of_regime} == set(BASES)
        methods = {run.method for run in of_regime}
        assert methods >= set(design.CORE)
        assert (methods == set(METHODS)) == (REGIMES[regime] in design.EXTREMES)
    others = [run for run in finals if run.factor != 1]
    assert {run.seed for run in others} == {0, 1, 2}
    assert {run.factor for run in others} == {1 / 3, 3.0}
    seeds = [run.seed for run in finals]
    assert seeds == sorted(seeds)
    assert study.FAMILIES == (84, 36, 90)  # as PLAN.md says


def test_a_tasks_rate_is_the_smallest_of_the_good_ones():
    accuracy = {3e-4: 0.5, 1e-3: 0.95, 3e-3: 0.96, 1e-2: 0.2}
    figures = {
        run.key: {"validation": accuracy[run.factor]} for rate in accuracy for run in design.searches("sort", rate)
    }
    assert design.rate_of("sort", figures) == 1e-3
    assert design.rate_of("map", figures) is None
    figures.popitem()
    assert design.rate_of("sort", figures) is None


def test_answers_survive_the_file():
    for answers in ([True], [False, False, True], [False] * 200, [i % 3 == 0 for i in range(200)]):
        assert trial.answers_of(trial.hexadecimal(answers)) == answers


def test_intervals_hold_as_often_as_they_say():
    """Simulated studies in which base models, seeds and questions vary, and the true difference is known."""
    draw = np.random.default_rng(0)
    here, elsewhere, count = 0, 0, 400
    for _ in range(count):
        of_bases, of_questions = 0.05 * draw.standard_normal(3), 0.3 * draw.standard_normal(200)
        of_seeds = 0.04 * draw.standard_normal((3, 6))
        noise = 0.3 * draw.standard_normal((3, 6, 200))
        gap = 0.1 + of_bases[:, None, None] + of_seeds[:, :, None] + of_questions + noise
        found = difference([gap], [np.zeros_like(gap)], 10)
        here += abs(found.value - 0.1 - of_bases.mean()) <= found.here
        elsewhere += abs(found.value - 0.1) <= found.elsewhere
        assert found.simultaneous > found.here
    assert 0.92 <= here / count <= 0.99
    assert 0.90 <= elsewhere / count <= 0.99


def test_the_half_width_of_one_component_is_students():
    from scipy import stats

    values = np.array([1.0, 2.0, 4.0, 8.0])
    low, high = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert half_width([(float(values.var(ddof=1)) / 4, 3)], 0.05) == pytest.approx((high - low) / 2)


def test_bold_needs_all_base_models():
    gap = np.full((3, 4, 200), 0.2) + 0.001 * np.random.default_rng(0).standard_normal((3, 4, 200))
    assert difference([gap], [0 * gap], 84).is_found
    gap[0] = -0.01
    assert not difference([gap], [0 * gap], 84).is_found
    assert difference([gap], [0 * gap], 84).value > difference([gap], [0 * gap], 84).simultaneous


@pytest.fixture
def lines():
    """A results file of two seeds, in which OTR is ahead by ten points, and whose last seed is not finished."""
    draw = random.Random(0)
    made = [{"kind": "session", "session": 0, "study": "s", "loss": "l", "jobs": 2, "command": "c", "date": "d"}]
    made[0] |= {"machine": "m", "threads": 1, "versions": {"torch": "2"}}
    for base in BASES:
        figures = {"parameters": 1, "steps": 2, "skills": {"rev": 1.0, "asc": 0.9, "add": 0.5}}
        made.append({"kind": "base", "base": base, "session": 0, "weights": base, "figures": figures})
    for run in design.trials():
        if run.seed in (0, 1, 100, 101) and (run.factor == 1 or run.kind == "search"):
            right = 0.6 if run.method == OTR else 0.5
            end = {name: trial.hexadecimal([draw.random() < right for _ in range(200)]) for name in trial.MEASURES}
            figures = {"validation": 0.9} if run.kind == "search" else {"end": end, "best": {**dict.fromkeys(end, 0.7)}}
            made.append(asdict(run) | {"session": 0, "weights": run.base, "figures": figures})
    return made


def test_the_page_has_complete_seeds_only(lines):
    page = report.render(lines)
    assert "2 of 10 planned seeds are complete." in page
    row = next(line for line in page.splitlines() if line.startswith(f"| random 30: {minus(OTR, SFT)}"))
    assert all(8 < float(cell.strip(" *").split(" ")[0]) < 12 for cell in row.split("|")[2:5]), row
    assert "No seed at other rates is complete." in page
    one_less = report.render(lines[:-1])
    assert "1 of 10 planned seeds are complete." in one_less
    assert "Differences need two complete seeds." in one_less


def test_runs_of_other_code_or_other_base_models_do_not_count(lines):
    assert "1 of 10" not in report.render(lines)
    later = [*lines, lines[0] | {"session": 1, "study": "changed"}]
    assert "0 of 10 planned seeds are complete. 0 runs." in report.render(later)
    other = [line | ({"weights": "other"} if line["kind"] == "base" and line["base"] == "A" else {}) for line in lines]
    assert "0 of 10 planned seeds are complete." in report.render(other)


def test_label_smoothing_is_pytorchs():
    size = replace(SIZES["smoke"], base_seed=3)
    model = base_model.new_model(size)
    batch = trial.collate(TASKS["sort"].training_examples(0, "", 0)[:4], model.device)
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    logp, kept = logits.log_softmax(-1), labels != -100
    label = logp.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    expected = -(0.9 * label + 0.1 * logp.mean(-1))[kept].mean()
    torch.testing.assert_close(trial.smoothed(model, batch), expected)


def test_base_models_of_other_seeds_differ():
    size = SIZES["smoke"]
    assert base_model.training_batch(3, 8, dict.fromkeys(base_model.BASE_SKILLS, 0.0)) != base_model.training_batch(
        3, 8, dict.fromkeys(base_model.BASE_SKILLS, 0.0), 1
    )
    first, second = (base_model.new_model(replace(size, base_seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.lm_head.weight, second.lm_head.weight)
    assert "base_seed" not in base_model.settings(size)  # as base models were recorded before


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study with base models of two layers and runs of four steps, in a folder of its own."""
    sizes = {
        name: replace(SIZES["smoke"], name=name, base_steps=4, base_decay=2, base_seed=i) for i, name in enumerate("AB")
    }
    for name, value in {
        "STEPS": 4,
        "LOOKS": 2,
        "QUESTIONS": 6,
        "QUESTIONS_OF_A_LOOK": 3,
        "BATCH": 4,
        "SEEDS": 1,
    }.items():
        monkeypatch.setattr(design, name, value)
    for module in (design, command, study):
        monkeypatch.setattr(module, "BASES", sizes)
    monkeypatch.setattr(command, "KEPT_BASES", tmp_path / "bases")
    monkeypatch.setattr(base_model, "VALIDATION_QUESTIONS", 4)
    monkeypatch.setattr(base_model, "TEST_QUESTIONS", 4)
    runs = [
        *design.searches("sort", 1e-3),
        *(Trial("final", "A", "sort believed 30", m, 3.0, 0) for m in (OTR, SFT, SMOOTHING)),
    ]
    monkeypatch.setattr(design, "trials", lambda: iter(runs))
    monkeypatch.setattr(design, "LADDER", (1e-3,))
    monkeypatch.setattr(command.pool, "run_all", run_in_this_process)
    return tmp_path, runs


def run_in_this_process(jobs, deadline, not_begun, call, finished, console):
    while time.monotonic() < deadline and (new := not_begun([])):
        function, *arguments = call(new[0])
        finished(new[0], function(*arguments))


def test_the_command_resumes(small):
    folder, runs = small
    file = folder / "learning-2.jsonl"
    command.run(file, folder, 1, None)
    made = [line for line in store.read(file) if line["kind"] in ("search", "final")]
    assert [line["method"] for line in made] == [run.method for run in runs]
    assert {line["figures"]["rate"] for line in made if line["kind"] == "final"} == {3e-3}
    # A run is lost, and only that one is made again, with the same figures.
    lost = file.read_text().splitlines()
    file.write_text("\n".join(lost[:-1]) + "\n")
    command.run(file, folder, 1, None)
    again = [line for line in store.read(file) if line["kind"] in ("search", "final")]
    assert [{k: v for k, v in line.items() if k != "session"} for line in again] == [
        {k: v for k, v in line.items() if k != "session"} for line in made
    ]
    assert sum(line["kind"] == "base" for line in store.read(file)) == 2
    assert file.with_suffix(".md").exists()


def test_the_kept_base_models_are_the_recorded_ones():
    recorded = {line["base"]: line for line in store.read(results.FILE) if line["kind"] == "base"}
    kept = {path.name for path in command.KEPT_BASES.iterdir()}
    assert kept
    assert kept == set(recorded)
    for name, line in recorded.items():
        assert line["weights"] == results.checksum_of_weights(command.KEPT_BASES / name)
        assert line["config"] == base_model.settings(BASES[name])
