"""Check functions with random inputs of a seed, which no key and no student knows."""

import secrets
from pathlib import Path

from exercises.calls import collect_answers
from exercises.comparison import Answer, is_close, read_key
from exercises.diagnosis import raises
from exercises.exercise import Exercise
from exercises.grading import FAIL, OK, Part, Result, diagnose, take_out_wrong
from exercises.inputs import Draw
from exercises.loading import Work
from exercises.targets import package_function, replace_functions, short_name

MAX_SEED = 999_999  # few digits to copy


def new_seed() -> int:
    return 1 + secrets.randbelow(MAX_SEED)


def check_drawn_cases(exercise: Exercise, folder: Path, result: Result, draw: Draw) -> None:
    """Note in a result which functions are right for the public inputs only.

    The same cases run with other numbers; what the package returns for them is right.
    """
    work = Work(exercise, exercise.path(folder))
    take_out_wrong(work, exercise.checks, result.parts)
    for (target, function), part in zip(work.functions.items(), result.parts):
        if part.status != OK:
            continue
        expected, _ = collect_answers(exercise, target, package_function(target), draw)
        refuse_new_errors(exercise, target, expected)
        with replace_functions({target: function}):
            answers, probe = collect_answers(exercise, target, function, draw)
            wrong = [case for case in expected if not is_close(answers[case], expected[case])]
            if wrong:
                case = wrong[0]
                sentence = diagnose(exercise, target, probe, answers, case, expected[case])
                where = f"right for the public numbers, wrong for others (--seed {draw.shift})"
                sentence = f"{part.name}: {where}: {sentence}"
                note_wrong_part(result, part, sentence, len(expected) - len(wrong))
        take_out_wrong(work, [target], [part])


def refuse_new_errors(exercise: Exercise, target: str, expected: dict[str, Answer]) -> None:
    """RuntimeError: the package itself fails for a case, and not for the public numbers."""
    right, _ = read_key(exercise, target)
    for case, answer in expected.items():
        if raises(answer) != raises(right[case]):
            raise RuntimeError(f"{short_name(target)}, {case}: the package {raises(answer)}")


def note_wrong_part(result: Result, part: Part, sentence: str, num_right: int) -> None:
    """Turn a verdict on a function, and that on its exercise, into wrong."""
    part.status = FAIL
    part.num_right = num_right
    part.sentence = sentence
    if result.status != FAIL:
        result.status = FAIL
        result.sentence = part.sentence
