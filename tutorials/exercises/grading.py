"""Grade one exercise.

    grade_exercise -> check_exercise -> check_function -> collect_answers, read_key -> diagnosis

The student's functions run in the place of the package's, so that a function which asks the package
for the answer only calls itself.
"""

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exercises.calls import Probe, collect_answers
from exercises.comparison import Answer, is_close, read_key
from exercises.diagnosis import (
    describe_difference,
    describe_largest_error,
    find_broken_law,
    match_mistake,
    own_traceback,
)
from exercises.exercise import Exercise, ExerciseError
from exercises.loading import load_functions
from exercises.targets import package_function, replace_functions, short_name, source_location

OK = "ok"
TODO = "todo"
FAIL = "FAIL"


@dataclass
class Result:
    id: str
    title: str
    status: str  # ok, todo or FAIL
    sentence: str
    detail: str = ""  # the student's own traceback, what the functions printed


def grade_exercise(exercise: Exercise, folder: Path | None) -> Result:
    """Grade an exercise of a work folder, or the package itself if `folder` is None."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            result = check_exercise(exercise, folder)
    except ExerciseError as error:
        result = Result(exercise.id, exercise.title, FAIL, error.sentence, error.detail)

    text = printed.getvalue()[:2000].rstrip()
    if text:
        lines = [result.detail] if result.detail else []
        result.detail = "\n".join([*lines, "printed:", text])
    return result


def check_exercise(exercise: Exercise, folder: Path | None) -> Result:
    """Check the functions of an exercise in turn. ExerciseError: one of them is wrong."""
    if folder is None:
        functions = {target: package_function(target) for target in exercise.checks}
        replaced = {}
    else:
        functions = load_functions(exercise, exercise.path(folder))
        replaced = functions

    unwritten = []
    with replace_functions(replaced):
        for target, function in functions.items():
            try:
                check_function(exercise, target, function)
            except NotImplementedError as error:
                unwritten.append(short_name(target) + needed_exercise(error, exercise))

    if not unwritten:
        first = next(iter(functions))
        return Result(exercise.id, exercise.title, OK, f"compare with {source_location(first)}")
    sentence = f"write {join_names(unwritten)}"
    num_right = len(functions) - len(unwritten)
    if num_right:
        sentence += f"; {num_right} of {len(functions)} are right"
    return Result(exercise.id, exercise.title, TODO, sentence)


def needed_exercise(error: NotImplementedError, exercise: Exercise) -> str:
    """Return " (it needs exercise 5)" if a stub of another exercise was called, or ""."""
    match = re.fullmatch(r"ex(\d\d)", str(error))
    if not match or match[0] == exercise.id:
        return ""
    return f" (it needs exercise {int(match[1])})"


def join_names(names: list[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    *others, last = names
    if not others:
        return last
    return f"{', '.join(others)} and {last}"


def check_function(exercise: Exercise, target: str, function: Callable) -> None:
    """Compare a function's answers with the key. ExerciseError: a sentence says what is wrong."""
    answers, probe = collect_answers(exercise, target, function)
    right, wrong = read_key(exercise, target)
    name = short_name(target)

    wrong_cases = [case for case in right if not is_close(answers.get(case, {}), right[case])]
    if wrong_cases:
        case = wrong_cases[0]
        sentence = match_mistake(answers, case, right, wrong)
        if not sentence:
            sentence = diagnose(exercise, target, probe, answers, case, right[case])
        if not sentence.startswith(name):
            sentence = f"{name}: {sentence}"
        detail = own_traceback(probe.error) if probe.error else ""
        raise ExerciseError(sentence, detail)

    if probe.changed:
        raise ExerciseError(f"{name}: the values are right, but it changes its arguments in place")


def diagnose(
    exercise: Exercise,
    target: str,
    probe: Probe,
    answers: dict[str, Answer],
    case: str,
    expected: Answer,
) -> str:
    """Return a sentence about a wrong answer that no known mistake gives."""
    where = f"{short_name(target)}, {case}"
    sentence = describe_difference(answers[case], expected, probe, where)
    if sentence:
        return sentence
    if probe.changed:
        return "it changes its arguments in place: work on a copy"

    # What the function prints when it is called again was printed before.
    with contextlib.redirect_stdout(io.StringIO()):
        sentence = find_broken_law(exercise, target, probe.function, answers)
    return sentence or describe_largest_error(answers[case], expected, where)
