"""Check a student's functions with a teacher's own cases, whose answers no key has."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from exercises.assignment import Assignment
from exercises.calls import collect_answers
from exercises.comparison import Answer, is_close
from exercises.diagnosis import diagnose, explain_exception
from exercises.exercise import Exercise
from exercises.grading import FAIL, OK, RUNNING, TODO, Part
from exercises.inputs import Draw
from exercises.loading import Work
from exercises.targets import package_function, replace_functions, short_name

SUFFIX = ", the teacher's cases"


def try_cases(assignment: Assignment) -> list[str]:
    """Run the teacher's cases with the package's functions, and return warnings.

    ValueError: a case cannot be run, or would judge everybody alike.
    """
    warnings = []
    for exercise in assignment.exercises:
        for target in exercise.checks:
            if target in assignment.cases:
                private = with_private_check(exercise, target, assignment)
                warnings += try_check(private, target)
    return warnings


def try_check(exercise: Exercise, target: str) -> list[str]:
    """Run one check with the package's function, twice, and return what may be a slip in it."""
    num_calls = 0

    def count_call(*arguments, **named):
        nonlocal num_calls
        num_calls += 1
        return package_function(target)(*arguments, **named)

    try:
        first, probe = collect_answers(exercise, target, count_call)
        again, _ = collect_answers(exercise, target, count_call)
    except Exception as error:
        sentence, _ = explain_exception(error, f"CASES: {target}")
        raise ValueError(sentence) from None

    if not first:
        raise ValueError(f"CASES: {target}: the check yields no case")
    if not num_calls:
        raise ValueError(f"CASES: {target}: the check does not call the function")
    for case, answer in first.items():
        if not is_close(again.get(case, {}), answer):
            raise ValueError(
                f"CASES: {target}: {case!r} has another result each time: use draw for numbers"
            )
    return [describe_raised(target, case, error) for case, error in probe.errors.items()]


def describe_raised(target: str, case: str, error: BaseException) -> str:
    """Return a question: who makes the same slip as the teacher's case has all points for it."""
    reason = f"{type(error).__name__}: {error}"
    return f"CASES: {target}: {case!r}: the package itself raises {reason}: is that meant?"


def check_private_cases(
    exercise: Exercise, folder: Path, assignment: Assignment, draw: Draw, num_known: int = 0
) -> Iterator[Part]:
    """Yield RUNNING and a verdict for each function of an exercise for which the teacher has cases.

    The first `num_known` of these functions are passed over: another process has checked them.
    """
    targets = [target for target in exercise.checks if target in assignment.cases]
    for target in targets[num_known:]:
        yield Part(private_name(target), RUNNING)
        work = Work(exercise, exercise.path(folder))
        if target in work.missing:
            yield Part(private_name(target), FAIL, work.missing[target])
            continue
        private = with_private_check(exercise, target, assignment)
        expected, _ = collect_answers(private, target, package_function(target), draw)
        # The others are the package's, so that only this one is judged.
        for other in set(exercise.checks) - {target}:
            work.take_out(other)
        function = work.functions[target]
        with replace_functions({target: function}):
            yield check_cases(private, function, expected, draw)


def private_name(target: str) -> str:
    return short_name(target) + SUFFIX


def with_private_check(exercise: Exercise, target: str, assignment: Assignment) -> Exercise:
    """Return an exercise whose check of a function is the teacher's."""
    return replace(exercise, checks={target: assignment.cases[target]})


def check_cases(
    exercise: Exercise, function: Callable, expected: dict[str, Answer], draw: Draw
) -> Part:
    """Return the verdict on one function: how many answers are the package's."""
    [target] = exercise.checks
    part = Part(private_name(target), OK, num_cases=len(expected))
    try:
        answers, probe = collect_answers(exercise, target, function, draw, is_students=True)
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
