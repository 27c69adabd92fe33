"""Check a student's functions with a teacher's own cases, whose answers no key has."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from exercises.assignment import Assignment
from exercises.calls import collect_answers
from exercises.comparison import Answer, is_close
from exercises.diagnosis import explain_exception
from exercises.exercise import Exercise
from exercises.grading import FAIL, OK, TODO, Part, diagnose
from exercises.inputs import Draw
from exercises.loading import load_functions
from exercises.targets import package_function, replace_functions, short_name

SUFFIX = ", the teacher's cases"


def try_cases(assignment: Assignment) -> None:
    """Run the teacher's cases with the package's functions. ValueError: one cannot be run."""
    for exercise in assignment.exercises:
        for target in exercise.checks:
            if target not in assignment.cases:
                continue
            private = with_private_check(exercise, target, assignment)
            try:
                expected, _ = collect_answers(private, target, package_function(target))
            except Exception as error:
                sentence, _ = explain_exception(error, f"CASES: {target}")
                raise ValueError(sentence) from None
            if not expected:
                raise ValueError(f"CASES: {target}: the check yields no case")


def check_private_cases(
    exercise: Exercise, folder: Path, assignment: Assignment, draw: Draw
) -> Iterator[Part]:
    """Yield a verdict on each function of an exercise for which the teacher has cases."""
    targets = [target for target in exercise.checks if target in assignment.cases]
    if not targets:
        return
    functions = load_functions(exercise, exercise.path(folder))
    for target in targets:
        private = with_private_check(exercise, target, assignment)
        expected, _ = collect_answers(private, target, package_function(target), draw)
        # The others are the package's, so that only this one is judged.
        with replace_functions({target: functions[target]}):
            yield check_cases(private, functions[target], expected, draw)


def with_private_check(exercise: Exercise, target: str, assignment: Assignment) -> Exercise:
    """Return an exercise whose check of a function is the teacher's."""
    return replace(exercise, checks={target: assignment.cases[target]})


def check_cases(
    exercise: Exercise, function: Callable, expected: dict[str, Answer], draw: Draw
) -> Part:
    """Return the verdict on one function: how many answers are the package's."""
    [target] = exercise.checks
    part = Part(short_name(target) + SUFFIX, OK, num_cases=len(expected))
    try:
        answers, probe = collect_answers(exercise, target, function, draw)
    except NotImplementedError:
        part.status = TODO
        part.sentence = f"write {short_name(target)}"
        return part

    wrong = [case for case in expected if not is_close(answers.get(case, {}), expected[case])]
    part.num_right = len(expected) - len(wrong)
    if wrong:
        part.status = FAIL
        part.sentence = diagnose(exercise, target, probe, answers, wrong[0], expected[wrong[0]])
    return part
