"""`nanos2t exercises --watch`: check an exercise again whenever its file changes."""

import time
from collections.abc import Callable
from pathlib import Path

from exercises.exercise import Exercise
from exercises.processes import grade_exercises
from exercises.report import format_result, format_summary, note_delays
from exercises.targets import source_file

POLL_SECONDS = 0.5
Write = Callable[[str], None]


def watch_exercises(exercises: list[Exercise], folder: Path | None, write: Write) -> None:
    """Check exercises, and again those whose files change, until KeyboardInterrupt."""
    stamps = {}
    results = {}
    while True:
        changed = []
        for exercise in exercises:
            stamp = read_stamp(exercise, folder)
            if stamps.get(exercise.id) != stamp:
                stamps[exercise.id] = stamp
                changed.append(exercise)

        try:
            for result in note_delays(changed, grade_exercises(changed, folder)):
                results[result.id] = result
                write(format_result(result) + "\n")
        except RuntimeError as error:
            # In a hand-out: the next save may mend it.
            write(f"{error}\n")
        if changed:
            in_order = [results[exercise.id] for exercise in exercises if exercise.id in results]
            summary = format_summary(in_order, folder) if in_order else ""
            write(f"{summary}\nWatching; Ctrl-C ends it.\n")
        time.sleep(POLL_SECONDS)


def read_stamp(exercise: Exercise, folder: Path | None) -> list[tuple[int, int]]:
    """Return the times and sizes of the files that an exercise is written in."""
    if folder:
        paths = [exercise.path(folder)]
    else:
        paths = sorted({source_file(target) for target in exercise.checks})
    stamps = []
    for path in paths:
        if path.exists():
            status = path.stat()
            stamps.append((status.st_mtime_ns, status.st_size))
    return stamps
