# pytest -m slow tests/tutorials/test_wrong_answers.py
"""Wrong answers that were thought up without looking at the list of known mistakes.

Each block of wrong_answers/NAME.txt is one: edits of the second right answer, as in mistakes/,
below the beginning of its true name, or below "?" if the list has no name for it.
"""

from collections import Counter
from pathlib import Path

import pytest
from exercises import make
from exercises.comparison import mistake_name, read_key
from exercises.course import EXERCISES
from exercises.diagnosis import LIKELY
from exercises.grading import FAIL, grade_exercise
from helpers.answers import read_answer

FOLDER = Path(__file__).parent / "wrong_answers"
UNNAMED = "?"
TRIED = [exercise for exercise in EXERCISES if (FOLDER / f"{exercise.name}.txt").exists()]


def read_wrong_answers(exercise) -> list[tuple[str, str]]:
    """Return (the beginning of the true name, the text of the wrong answer) for each block."""
    wrong_answers = []
    text = (FOLDER / f"{exercise.name}.txt").read_text(encoding="utf-8")
    for block in text.strip().split("\n\n"):
        name, *lines = block.splitlines()
        answer = read_answer(exercise)
        for old, new in make.read_edits(lines):
            assert answer.count(old) == 1, (exercise.name, old)
            answer = answer.replace(old, new)
        wrong_answers.append((name.removeprefix("# "), answer))
    return wrong_answers


def judge(sentence: str, true_name: str, names: list[str]) -> str:
    """Return how the grader has done."""
    given = sorted((name for name in names if sentence.endswith(name)), key=len, reverse=True)
    if not given:
        return "caught"
    if true_name != UNNAMED and given[0].startswith(true_name):
        return "named rightly"
    return "caught" if LIKELY in sentence else "named wrongly"


@pytest.mark.slow
@pytest.mark.parametrize("exercise", TRIED, ids=lambda exercise: exercise.name)
def test_wrong_answers(exercise, folder):
    names = []
    for target in exercise.checks:
        names += [mistake_name(key) for key in read_key(exercise, target)[1]]

    counts = Counter()
    num_known = 0
    for true_name, text in read_wrong_answers(exercise):
        assert true_name == UNNAMED or any(name.startswith(true_name) for name in names), true_name
        exercise.path(folder).write_text(text, encoding="utf-8")
        result = grade_exercise(exercise, folder)
        assert result.status == FAIL, text

        verdict = judge(result.sentence, true_name, names)
        assert verdict != "named wrongly", (true_name, result.sentence)
        counts[verdict] += 1
        num_known += true_name != UNNAMED
    assert sum(counts.values()) >= 15
    assert counts["named rightly"] >= 0.85 * num_known, counts
