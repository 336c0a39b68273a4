"""The quickstart's examples and test questions.

The new skill, its training examples and its test questions are those of the study's regime `wrong10`
(benchmarks/learning/regimes.py): sorting letters downwards, from examples of which 10% have the right letters in a
random wrong order. The training examples are kept in the repository, in example_configs/small; running this module
writes them again:

    python -m benchmarks.quickstart.data
"""

from __future__ import annotations

import functools
import json
from itertools import islice

from benchmarks.learning.regimes import REGIMES
from benchmarks.paths import EXAMPLES
from benchmarks.string_skills import Example, examples

SMALL = EXAMPLES / "small"
MODEL = SMALL / "model"
TRAINING_FILE = SMALL / "desc-wrong10.jsonl"

OLD_SKILLS = ("copy", "rev", "asc", "max", "add", "next")  # The small model was pretrained on these.
OLD_SIZES = range(1, 8)
NEW_SKILL = "desc"
REGIME = REGIMES["wrong10"]


def training_examples() -> list[Example]:
    """Returns the questions and answers of TRAINING_FILE, in its order."""
    return REGIME.training_examples(seed=0)


def training_lines() -> str:
    """Returns the content of TRAINING_FILE."""
    return "".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in training_examples())


def old_skill_questions(skill: str, count: int, seed: int) -> list[Example]:
    """Returns questions about one old skill that pretraining held out."""
    return list(islice(examples(skill, OLD_SIZES, seed, test=True), count))


@functools.cache
def questions_by_kind(count: int) -> dict[str, list[Example]]:
    """Returns `count` questions of each kind. None was used in training, and every answer is right."""
    return {
        "new skill": REGIME.test(count),
        "harder cases": REGIME.shifted_test(count),
        "old skills": [
            pair for skill in OLD_SKILLS for pair in old_skill_questions(skill, count // len(OLD_SKILLS), seed=2)
        ],
    }


if __name__ == "__main__":
    TRAINING_FILE.write_text(training_lines())
