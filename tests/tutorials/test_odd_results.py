# pytest tests/tutorials/test_odd_results.py
"""Whatever a student's function returns or raises has a sentence, and is no fault of the grader."""

import ast

import pytest
import torch
from exercises.assignment import Assignment
from exercises.class_summary import list_functions
from exercises.course import EXERCISES
from exercises.grading import FAIL, OK, RUNNING, check_part, grade_exercise
from exercises.inputs import Draw
from exercises.loading import load_folder
from exercises.private_cases import check_private_cases
from exercises.processes import grade_exercises
from helpers.answers import exercise_number, read_answer

TARGETS = [(exercise, target) for exercise in EXERCISES for target in exercise.checks]


class NoTextError(Exception):
    def __str__(self):
        raise RuntimeError("a slip")


class NoType:
    @property
    def dtype(self):
        raise RuntimeError("a slip")


ENDLESS: list = []
ENDLESS.append(ENDLESS)
NUMBERS = torch.ones(2, 3, 4)
RESULTS = {
    "bfloat16": NUMBERS.bfloat16(),
    "no numbers": NUMBERS.to("meta"),
    "sparse": (NUMBERS.to_sparse(), None),
    "a list in itself": ENDLESS,
    "a slip": NoType(),
    "a class": Assignment,
}


@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize("exercise, target", TARGETS, ids=lambda value: str(value)[-20:])
def test_any_result_has_a_sentence(exercise, target, name):
    part = check_part(exercise, target, lambda *arguments, **named: RESULTS[name])
    assert part.status == FAIL
    assert part.sentence


@pytest.mark.parametrize(
    "number, old, new, sentence",
    [
        (8, "columns <= rows + past", "(columns <= rows + past).bfloat16()", "tensor of bfloat16"),
        (8, "columns <= rows + past", 'torch.ones(2, device="meta")', "on the device meta"),
        (8, "    rows", "    raise KeyboardInterrupt\n    rows", "KeyboardInterrupt:  (line 5)"),
        (8, "    rows", "    raise GeneratorExit\n    rows", "GeneratorExit:  (line 5)"),
        # What makes the loss fails in backward().
        (
            10,
            "    counts = labels != -100\n",
            "    counts = labels != -100\n    logprobs[labels == -100] = 0\n",
            "modified by an inplace operation",
        ),
    ],
)
def test_odd_work_has_a_sentence(number, old, new, sentence, folder):
    exercise = exercise_number(number)
    text = read_answer(exercise)
    assert old in text
    exercise.path(folder).write_text(text.replace(old, new, 1), encoding="utf-8")
    result = grade_exercise(exercise, folder)
    assert result.status == FAIL
    assert sentence in result.sentence


def test_an_exception_without_text_has_a_sentence():
    def fail(*arguments):
        raise NoTextError

    exercise = exercise_number(8)
    sentence = check_part(exercise, "decoder:causal_mask", fail).sentence
    assert "RuntimeError: NoTextError, whose __str__ fails as well" in sentence


def test_ctrl_c_in_a_file_shows_no_traceback_of_the_grader(folder, capfd):
    exercise = exercise_number(8)
    exercise.path(folder).write_text("raise KeyboardInterrupt\n", encoding="utf-8")
    [result] = grade_exercises([exercise], folder)
    assert result.sentence == "the file cannot be imported: KeyboardInterrupt:  (line 1)"
    assert "Traceback" not in capfd.readouterr().err


def test_a_teachers_case_may_take_the_result_apart(folder):
    """Whose function returns or raises something else loses its points only, and the case's."""

    def check_half(function, draw):
        yield "the whole", function(2, 1, torch.device("cpu"))
        yield "the first row", function(2, 1, torch.device("cpu"))[0]

    exercise = exercise_number(8)
    cases = Assignment({exercise.id: 1}, cases={"decoder:causal_mask": check_half})
    for body, sentence in ("None", "it returned None"), ("1 / 0", "ZeroDivisionError"):
        text = f"def causal_mask(T, past_length, device):\n    return {body}\n"
        exercise.path(folder).write_text(text, encoding="utf-8")
        *_, part = check_private_cases(exercise, folder, cases, Draw(6))
        assert (part.status, part.num_right, part.num_cases) == (FAIL, 0, 2)
        assert sentence in part.sentence


def test_what_is_not_part_of_an_exercise_may_be_refused(folder):
    """The function is written nevertheless: it is graded, and runs in the real model."""
    edits = {
        5: ("    if is_causal:\n", "    if dropout:\n        raise NotImplementedError\n"),
        11: (
            "    rows = start.tolist()\n",
            '    if config.do_sample:\n        raise NotImplementedError("sampling")\n',
        ),
    }
    for number, (line, more) in edits.items():
        exercise = exercise_number(number)
        text = read_answer(exercise)
        assert text.count(line) == 1
        exercise.path(folder).write_text(text.replace(line, more + line), encoding="utf-8")
        parts = []
        result = grade_exercise(exercise, folder, parts.append)
        assert result.status == OK
        assert [part.status for part in parts if part.status != RUNNING] == [OK] * len(
            exercise.checks
        )
        names = [name for name, _ in list_functions(ast.parse(text.replace(line, more + line)))]
        assert sorted(names) == sorted(target.partition(":")[2] for target in exercise.checks)
    sentences = []
    written = load_folder(folder, sentences.append)
    assert {"wav2vec2:attend", "generate:greedy_search"} <= set(written)
    assert "greedy_search" in sentences[0]
