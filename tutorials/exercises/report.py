"""What students read on the terminal."""

from pathlib import Path

from exercises.course import EXERCISES, select_exercises
from exercises.folders import relative_path
from exercises.grading import FAIL, OK, Result
from exercises.targets import source_location


def format_result(result: Result) -> str:
    return f"{result.id[2:]}  {result.title:<42} {result.status:<4}  {result.sentence}"


def format_summary(results: list[Result], folder: Path | None) -> str:
    """Return the progress bar and the next step; for the package itself `folder` is None."""
    num_ok = sum(result.status == OK for result in results)
    bar = "#" * round(30 * num_ok / len(results))
    text = f"\n[{bar:.<30}] {num_ok} of {len(results)}\n"

    if num_ok < len(results):
        return text + format_next_step(results, folder)
    if len(results) < len(EXERCISES):
        return text + "Now all of them: nanos2t exercises\n"
    if folder:
        return text + f"All done: nanos2t transcribe FILE --with {relative_path(folder)}\n"
    return text


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
    text += f"Next: {' and '.join(places)}, then: nanos2t exercises {exercise.number}\n"
    return text + f"Stuck? nanos2t exercises hint {exercise.number}\n"
