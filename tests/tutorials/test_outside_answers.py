# pytest -m slow tests/tutorials/test_outside_answers.py
"""Wrong answers of readers who have not seen the list of known mistakes: 40 an exercise.

Every third one is graded here; python -m tests.helpers.outside_answers grades all of them.
"""

import pytest
from exercises.course import EXERCISES
from exercises.grading import OK
from helpers.outside_answers import (
    CAUGHT,
    ENDLESS,
    LIKE_OTHER,
    LIKE_TRUE,
    PASSED,
    RIGHTLY,
    UNNAMED,
    WRONGLY,
    grade_text,
    judge,
    list_names,
    read_outside_answers,
    read_right_answer,
)

TRIED = [exercise for exercise in EXERCISES if read_outside_answers(exercise)]
STEP = 5
each = pytest.mark.parametrize("exercise", TRIED, ids=lambda exercise: exercise.name)


def test_all_exercises_were_tried():
    assert len(TRIED) >= 14


@each
def test_most_answers_have_a_true_name(exercise):
    answers = read_outside_answers(exercise)
    num_unnamed = sum(answer.piece == UNNAMED for answer in answers)
    assert len(answers) >= 40
    assert num_unnamed <= 0.15 * len(answers)


@pytest.mark.slow
@each
def test_outside_answers(exercise, folder):
    status, sentence = grade_text(exercise, read_right_answer(exercise), folder)
    assert status == OK, sentence

    names = list_names(exercise)
    first = exercise.number % STEP
    for answer in read_outside_answers(exercise)[first::STEP]:
        # One without end takes all of its time.
        if answer.piece == ENDLESS:
            continue
        status, sentence = grade_text(exercise, answer.text, folder)
        verdict = judge(status, sentence, answer.piece, names)
        expected = (CAUGHT, LIKE_OTHER) if answer.piece == UNNAMED else (RIGHTLY, LIKE_TRUE)
        assert verdict in expected, (answer.sentence, sentence)


def test_the_judge_tells_names_from_others():
    names = ["the mask is inverted"]
    assert judge(OK, "", "inverted", names) == PASSED
    assert judge("FAIL", "f: the mask is inverted", "inverted", names) == RIGHTLY
    assert judge("FAIL", "f: looks like: the mask is inverted", "inverted", names) == LIKE_TRUE
    assert judge("FAIL", "f: the mask is inverted", UNNAMED, names) == WRONGLY
    assert judge("FAIL", "f: looks like: the mask is inverted", UNNAMED, names) == LIKE_OTHER
    assert judge("FAIL", "f, no mask: 3 % of result is wrong", "inverted", names) == CAUGHT
