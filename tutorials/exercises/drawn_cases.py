"""Check functions with random inputs of a seed, which no key and no student knows."""

import secrets
from collections.abc import Callable

from exercises.calls import collect_answers
from exercises.comparison import Answer, is_close, read_key
from exercises.diagnosis import diagnose, raises
from exercises.exercise import Exercise
from exercises.inputs import Draw
from exercises.targets import package_function, replace_functions, short_name

MAX_SEED = 999_999  # few digits to copy


def new_seed() -> int:
    return 1 + secrets.randbelow(MAX_SEED)


def find_drawn_mistake(
    exercise: Exercise, target: str, function: Callable, draw: Draw
) -> tuple[str, int]:
    """Return what is wrong with a function for other numbers, or "", and how many cases are right.

    The cases are those of the key; what the package returns for the numbers of `draw` is right.
    """
    expected, _ = collect_answers(exercise, target, package_function(target), draw)
    refuse_new_errors(exercise, target, expected)
    with replace_functions({target: function}):
        answers, probe = collect_answers(exercise, target, function, draw, is_students=True)
        wrong = [case for case in expected if not is_close(answers.get(case, {}), expected[case])]
        sentence = ""
        if wrong:
            case = wrong[0]
            sentence = diagnose(exercise, target, probe, answers, case, expected[case])
    return sentence, len(expected) - len(wrong)


def refuse_new_errors(exercise: Exercise, target: str, expected: dict[str, Answer]) -> None:
    """RuntimeError: the package itself fails for a case, and not for the public numbers."""
    right, _ = read_key(exercise, target)
    for case, answer in expected.items():
        if raises(answer) != raises(right[case]):
            raise RuntimeError(f"{short_name(target)}, {case}: the package {raises(answer)}")
