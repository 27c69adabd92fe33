"""What students read on the terminal."""

import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from exercises.course import select_exercises
from exercises.exercise import Exercise
from exercises.folders import HERE, relative_path, select_offered
from exercises.grading import FAIL, OK, Part, Result
from exercises.processes import SECONDS
from exercises.targets import source_location

NOTE_SECONDS = 10  # without a result, until the student is told so


def write_error(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def note_delays(
    exercises: list[Exercise],
    results: Iterator[Result],
    seconds: float = NOTE_SECONDS,
    write: Callable[[str], None] = write_error,
) -> Iterator[Result]:
    """Yield the results of exercises, and write a line while one of them takes long."""
    for exercise in exercises:
        text = (
            f"{exercise.id[2:]}  {exercise.title}: no result after {seconds:g} s; what takes "
            f"{SECONDS} s of the processor's time is stopped\n"
        )
        timer = threading.Timer(seconds, write, [text])
        timer.daemon = True
        timer.start()
        try:
            result = next(results)
        finally:
            timer.cancel()
        yield result


def format_result(result: Result) -> str:
    """Return a line about an exercise; one that is not right yet has its minutes and stars."""
    line = f"{result.id[2:]}  {result.title:<42} {result.status:<4}  {result.sentence}"
    [exercise] = select_exercises([result.id])
    if result.status == FAIL:
        return line + format_unchecked(len(exercise.checks), result.parts)
    if result.status == OK:
        return line
    return f"{line}  ({exercise.minutes} min, {'*' * exercise.difficulty})"


def format_unchecked(num_functions: int, parts: list[Part]) -> str:
    """Return how many functions of an exercise were not checked, because one before is wrong."""
    num_left = num_functions - len(parts)
    if not parts or not num_left:
        return ""
    noun = "function is" if num_left == 1 else "functions are"
    return f"  ({num_left} later {noun} not checked yet)"


def format_task(exercise: Exercise) -> str:
    """Return what is to be written, the text of the stub."""
    return textwrap.dedent(exercise.task).strip() + "\n"


def format_summary(results: list[Result], folder: Path | None) -> str:
    """Return the progress bar and the next step; for the package itself `folder` is None."""
    num_ok = sum(result.status == OK for result in results)
    bar = "#" * round(30 * num_ok / len(results))
    text = f"\n[{bar:.<30}] {num_ok} of {len(results)}"

    if num_ok < len(results):
        return f"{text}, {format_time_left(results)} to go\n{format_next_step(results, folder)}"
    text += "\n"
    offered = select_offered([])
    if len(results) < len(offered):
        later = [exercise for exercise in offered if exercise.id > results[-1].id]
        if later:
            number = later[0].number
            text += f"The next one, {later[0].title}: nanos2t exercises {number}\n"
        return text + "All of them: nanos2t exercises\n"
    if folder:
        work = relative_path(folder)
        text += f"All done: nanos2t transcribe FILE --with {work}\n"
        text += f"Your own voice, stage by stage: nanos2t report FILE -o PAGE --with {work}\n"
    else:
        text += "All done: nanos2t transcribe FILE --no-fast\n"
    return text


def format_time_left(results: list[Result]) -> str:
    """Return how long the exercises that are not right may take, such as "about 2 h 30 min"."""
    ids = [result.id for result in results if result.status != OK]
    minutes = sum(exercise.minutes for exercise in select_exercises(ids))
    hours, rest = divmod(minutes, 60)
    parts = [f"{hours} h"] if hours else []
    parts += [f"{rest} min"] if rest else []
    return f"about {' '.join(parts)}"


def format_next_step(results: list[Result], folder: Path | None) -> str:
    """Return what to do about the first exercise that failed or, if none did, is unwritten."""
    unsolved = [result for result in results if result.status != OK]
    failed = [result for result in unsolved if result.status == FAIL]
    first = (failed or unsolved)[0]
    [exercise] = select_exercises([first.id])

    if folder:
        places = [relative_path(exercise.path(folder))]
    else:
        places = sorted({source_location(target) for target in exercise.checks})
    text = "".join(f"  | {line}\n" for line in first.detail.splitlines())
    lesson = HERE.parent / f"{exercise.lesson}.py"
    if exercise.lesson and lesson.exists():
        text += f"Read first: {relative_path(lesson)}\n"
    text += f"Next: {' and '.join(places)}, then: nanos2t exercises {exercise.number}\n"
    return text + f"Stuck? nanos2t exercises hint {exercise.number}\n"
