"""Grade exercises in a child process, which may crash or hang without harm to the others."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch

from exercises.course import select_exercises
from exercises.exercise import Exercise
from exercises.folders import HERE
from exercises.grading import FAIL, Result, grade_exercise

SECONDS = 30  # that one exercise may take; a correct one takes less than one
START_SECONDS = 300  # for a child process to import torch and the package
CHILD = (
    "import sys; from exercises import processes; processes.run_child(sys.argv[1], sys.argv[2:])"
)


def grade_exercises(
    exercises: list[Exercise], folder: Path | None, seconds: float = SECONDS
) -> Iterator[Result]:
    """Yield the results in order; if `folder` is None, the package itself is graded.

    An exercise that ends the child process, or takes longer than `seconds`, fails; a new child
    process grades the exercises after it.
    """
    waiting = list(exercises)
    while waiting:
        child, lines = start_child(folder, waiting)
        try:
            if receive_line(lines, START_SECONDS) is None:
                raise RuntimeError("the grader's child process does not start")
            for result in receive_results(lines, list(waiting), seconds):
                waiting.pop(0)
                yield result
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def receive_results(
    lines: queue.Queue, exercises: list[Exercise], seconds: float
) -> Iterator[Result]:
    """Yield the results of a child process, the last one for the exercise at which it failed."""
    for exercise in exercises:
        line = receive_line(lines, seconds)
        if line:
            yield Result(**json.loads(line))
            continue
        if line is None:
            sentence = f"it took longer than {seconds:g} s: is there a loop without end?"
        else:
            sentence = "it ended Python (exit, or a crash)"
        yield Result(exercise.id, exercise.title, FAIL, sentence)
        return


def start_child(
    folder: Path | None, exercises: list[Exercise]
) -> tuple[subprocess.Popen, queue.Queue]:
    """Start a child process; return it and a queue of the lines that it prints, "" at the end."""
    ids = [exercise.id for exercise in exercises]
    paths = [str(HERE.parent), str(HERE.parents[1])]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    variables = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}

    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder or ""), *ids],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        env=os.environ | variables,
    )

    lines = queue.Queue()

    def read_lines() -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in child.stdout:
                lines.put(line)
        lines.put("")

    threading.Thread(target=read_lines, daemon=True).start()
    return child, lines


def receive_line(lines: queue.Queue, seconds: float) -> str | None:
    """Return the next line, or None if there is none in time."""
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return None


def run_child(folder: str, ids: list[str]) -> None:
    """Grade exercises in this process: one empty line, then one line of JSON for each on stdout."""
    # What the student's code prints must not mix with the results: it goes to the null device.
    results = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)

    print(file=results, flush=True)
    work = Path(folder) if folder else None
    for exercise in select_exercises(ids):
        result = grade_exercise(exercise, work)
        print(json.dumps(vars(result)), file=results, flush=True)
