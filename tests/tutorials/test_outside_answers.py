# pytest -m slow tests/tutorials/test_outside_answers.py
"""Wrong answers of readers who have not seen the list of known mistakes: 70 an exercise.

Some of them are graded here; python -m tests.helpers.outside_answers grades all of them.
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
    list_readers,
    read_outside_answers,
    read_right_answer,
)

LEAST = {"reader1": 40, "reader2": 15, "reader3": 15}
STEP = 6
TRIED = [exercise for exercise in EXERCISES if read_outside_answers(exercise, "reader1")]
each = pytest.mark.parametrize("exercise", TRIED, ids=lambda exercise: exercise.name)
each_reader = pytest.mark.parametrize("reader", list_readers())


def test_all_exercises_were_tried():
    assert len(TRIED) >= 14
    assert list_readers() == list(LEAST)


@each
@each_reader
def test_most_answers_have_a_true_name(exercise, reader):
    answers = read_outside_answers(exercise, reader)
    num_unnamed = sum(answer.piece == UNNAMED for answer in answers)
    assert len(answers) >= LEAST[reader]
    assert num_unnamed <= 0.15 * len(answers)


@pytest.mark.slow
@each
@each_reader
def test_outside_answers(exercise, reader, folder):
    status, sentence = grade_text(exercise, read_right_answer(exercise, reader), folder)
    assert status == OK, sentence

    names = list_names(exercise)
    first = exercise.number % STEP
    for answer in read_outside_answers(exercise, reader)[first::STEP]:
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
