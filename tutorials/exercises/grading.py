"""Grade one exercise.

    grade_exercise -> check_parts -> check_function -> collect_answers, read_key -> diagnosis

The student's functions run in the place of the package's, so that a function which asks the package
for the answer only calls itself.
"""

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exercises import folders
from exercises.calls import collect_answers
from exercises.comparison import is_close, read_key
from exercises.diagnosis import LIKELY, diagnose, name_mistake, own_traceback
from exercises.drawn_cases import find_drawn_mistake
from exercises.exercise import Exercise, ExerciseError
from exercises.inputs import Draw
from exercises.loading import Work
from exercises.targets import package_function, replace_functions, short_name, source_location

OK = "ok"
TODO = "todo"
FAIL = "FAIL"
RUNNING = "running"
PRINTED = "printed:"


@dataclass
class Part:
    """The verdict on one function of an exercise."""

    name: str
    status: str  # ok, todo or FAIL
    sentence: str = ""
    detail: str = ""  # the student's own traceback, what the case that failed printed
    num_right: int = 0  # cases
    num_cases: int = 0


@dataclass
class Result:
    """The verdict on an exercise: that on the first function that is wrong, or on all of them."""

    id: str
    title: str
    status: str  # ok, todo or FAIL
    sentence: str
    detail: str = ""  # the student's own traceback, what the functions printed
    parts: list[Part] = field(default_factory=list)


def grade_exercise(
    exercise: Exercise,
    folder: Path | None,
    report: Callable[[Part], None] | None = None,
    known: Sequence[Part] = (),
    draw: Draw | None = None,
) -> Result:
    """Grade an exercise of a work folder, or the package itself if `folder` is None.

    With `draw` a student's function that is right for the numbers of the key is called again with
    others.

    With `report` the functions after a wrong one are checked as well. They may not end, for the
    same reason. It is called before each function, with RUNNING, and with the verdict. Another
    process goes on after a function that has ended this one: `known` are the verdicts up to it.
    """
    output = io.StringIO()
    parts = []
    try:
        with contextlib.redirect_stdout(output):
            for part in check_parts(exercise, folder, known, draw):
                if report:
                    report(part)
                if part.status != RUNNING:
                    parts.append(part)
                if part.status == FAIL and not report:
                    break
        parts = [*known, *parts]
        result = join_parts(exercise, parts)
    except ExerciseError as error:
        result = Result(exercise.id, exercise.title, FAIL, error.sentence, error.detail)

    # The detail has what was printed in the case that failed. Otherwise it may all be of use.
    text = output.getvalue()[:2000].rstrip()
    if text and PRINTED not in result.detail:
        lines = [result.detail] if result.detail else []
        result.detail = "\n".join([*lines, PRINTED, text])
    return result


def check_parts(
    exercise: Exercise,
    folder: Path | None,
    known: Sequence[Part] = (),
    draw: Draw | None = None,
) -> Iterator[Part]:
    """Yield RUNNING and the verdict for each function of an exercise but those that are known.

    The functions run in the place of the package's. One that is not right is taken out again, so
    that those after it are judged alone. ExerciseError: the file has none.
    """
    targets = list(exercise.checks)
    work = None
    if folder:
        work = Work(exercise, exercise.path(folder))
        take_out_wrong(work, targets, known)

    for target in targets[len(known) :]:
        yield Part(short_name(target), RUNNING)
        if work and target in work.missing:
            part = Part(short_name(target), FAIL, work.missing[target])
        elif work:
            function = work.functions[target]
            with replace_functions(work.in_place | {target: function}):
                part = check_part(exercise, target, function)
            if draw and part.status == OK:
                check_drawn_part(exercise, target, function, part, draw)
            take_out_wrong(work, [target], [part])
        else:
            part = check_part(exercise, target, package_function(target))
        yield part


def take_out_wrong(work: Work, targets: Iterable[str], parts: Iterable[Part]) -> None:
    """Take out the functions whose verdict is not OK."""
    for target, part in zip(targets, parts):
        if part.status != OK:
            work.take_out(target)


def check_part(exercise: Exercise, target: str, function: Callable) -> Part:
    """Return the verdict on one function."""
    try:
        return check_function(exercise, target, function)
    except NotImplementedError as error:
        name = short_name(target)
        return Part(name, TODO, f"write {name}{needed_exercise(error, exercise)}")


def check_drawn_part(
    exercise: Exercise, target: str, function: Callable, part: Part, draw: Draw
) -> None:
    """Turn a verdict into wrong if a function is right for the public numbers only."""
    sentence, num_right = find_drawn_mistake(exercise, target, function, draw)
    if sentence:
        where = f"right for the public numbers, wrong for others (--seed {draw.shift})"
        part.status = FAIL
        part.sentence = f"{part.name}: {where}: {sentence}"
        part.num_right = num_right


def join_parts(exercise: Exercise, parts: list[Part]) -> Result:
    """Return the verdict on an exercise from those on its functions."""
    for part in parts:
        if part.status == FAIL:
            return Result(
                exercise.id, exercise.title, FAIL, part.sentence, part.detail, parts=parts
            )

    unwritten = [part.sentence.removeprefix("write ") for part in parts if part.status == TODO]
    if not unwritten:
        sentence = f"compare with {source_location(next(iter(exercise.checks)))}"
        if not folders.STUBS.is_dir():
            # In a hand-out that is what the student has written.
            sentence = "right"
        return Result(exercise.id, exercise.title, OK, sentence, parts=parts)

    sentence = f"write {join_names(unwritten)}"
    num_right = len(parts) - len(unwritten)
    if num_right:
        sentence += f"; {num_right} of {len(parts)} are right"
    return Result(exercise.id, exercise.title, TODO, sentence, parts=parts)


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


def check_function(exercise: Exercise, target: str, function: Callable) -> Part:
    """Compare a function's answers with the key."""
    answers, probe = collect_answers(exercise, target, function, is_students=True)
    right, wrong = read_key(exercise, target)
    wrong_cases = [case for case in right if not is_close(answers.get(case, {}), right[case])]

    part = Part(short_name(target), OK, num_cases=len(right))
    part.num_right = len(right) - len(wrong_cases)
    if wrong_cases:
        case = wrong_cases[0]
        details = []
        part.status = FAIL
        part.sentence = name_mistake(answers, right, wrong, probe.error_of(case, answers))
        if not part.sentence or part.sentence.startswith(LIKELY):
            difference = diagnose(exercise, target, probe, answers, case, right[case])
            # A name that is not certain does not hide what is wrong.
            if part.sentence:
                details.append(difference)
            part.sentence = part.sentence or difference
        error = probe.error_of(case, answers)
        if error:
            details.append(own_traceback(error))
        if probe.printed.get(case):
            details += [PRINTED, probe.printed[case][:2000].rstrip()]
        part.detail = "\n".join(details)
    elif probe.changed:
        part.status = FAIL
        part.sentence = "the values are right, but it changes its arguments in place"

    if part.sentence and not part.sentence.startswith(part.name):
        part.sentence = f"{part.name}: {part.sentence}"
    return part
