"""What a teacher sets for a class: points, cases that students do not see, a seed.

An assignment is a Python file. Each of its names may be missing:

    POINTS = {1: 5, "attention": 20}   # exercises and their points; default: all, 10 points each
    PARTIAL = 0.5                      # the share of the points for wrong functions; default: 0.5
    SEED = 4711                        # of the random inputs; default: another one each time
    CASES = {"wav2vec2:attend": check_one_key}

`check_one_key(function, draw)` is a generator like those in checks_*.py: it calls the function and
yields (description of the case, result). What the package's own function returns is right.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exercises.course import EXERCISES, select_exercise
from exercises.diagnosis import explain_exception
from exercises.exercise import Exercise

POINTS = 10
PARTIAL = 0.5
NAMES = {"POINTS", "PARTIAL", "SEED", "CASES"}


@dataclass(frozen=True)
class Assignment:
    """Exercises by id with their points, and what else a teacher has set."""

    points: dict[str, float]
    partial: float = PARTIAL
    seed: int | None = None
    cases: dict[str, Callable] = field(default_factory=dict)

    @property
    def exercises(self) -> list[Exercise]:
        return [exercise for exercise in EXERCISES if exercise.id in self.points]

    def num_parts(self, exercise: Exercise) -> int:
        """Return how many verdicts an exercise gets: its functions, and those with cases."""
        private = [target for target in exercise.checks if target in self.cases]
        return len(exercise.checks) + len(private)


def read_assignment(path: Path | None) -> Assignment:
    """Return the assignment in a teacher's file, or one of all exercises for None.

    ValueError: the file cannot be read or run, or sets what there is not.
    """
    if path is None:
        return Assignment({exercise.id: POINTS for exercise in EXERCISES})

    values = run_file(path)
    unknown = sorted(name for name in values if name.isupper() and name not in NAMES)
    # Constants of the teacher's own are fine; a name that is nearly one of ours is a slip.
    near = [name for name in unknown if name.rstrip("S") in {known.rstrip("S") for known in NAMES}]
    if near:
        raise ValueError(f"{path}: {near[0]} is none of {', '.join(sorted(NAMES))}")

    default = {exercise.number: POINTS for exercise in EXERCISES}
    points = read_points(path, values.get("POINTS", default))
    partial = values.get("PARTIAL", PARTIAL)
    if not is_number(partial) or not 0 <= partial <= 1:
        raise ValueError(f"{path}: PARTIAL is {partial!r}, expected a number from 0 to 1")
    seed = values.get("SEED")
    # 0 would give the public numbers, for which the answers can be learned by heart.
    if seed is not None and (not isinstance(seed, int) or seed < 1):
        raise ValueError(f"{path}: SEED is {seed!r}, expected a whole number from 1")
    cases = read_cases(path, values.get("CASES", {}))
    assignment = Assignment(points, partial, seed, cases)
    used = {target for exercise in assignment.exercises for target in exercise.checks}
    for target in cases:
        if target not in used:
            raise ValueError(f"{path}: CASES: {target}: its exercise has no points in POINTS")
    return assignment


def run_file(path: Path) -> dict[str, object]:
    """Return the names that a Python file defines. ValueError: it cannot be read or run."""
    spec = importlib.util.spec_from_file_location("assignment", path)
    if spec is None or not path.is_file():
        raise ValueError(f"{path}: expected a Python file, such as homework.py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(explain_exception(error, str(path))[0]) from None
    return vars(module)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_points(path: Path, points: object) -> dict[str, float]:
    """Return points by id of the exercise."""
    if not isinstance(points, dict) or not points:
        raise ValueError(f"{path}: POINTS: expected a dict of exercises and points")
    by_id = {}
    for word, value in points.items():
        try:
            exercise = select_exercise(str(word))
        except ValueError as error:
            raise ValueError(f"{path}: POINTS: {error}") from None
        if not is_number(value) or not 0 <= value < float("inf"):
            raise ValueError(f"{path}: POINTS: {word} has {value!r}, expected a number from 0")
        if exercise.id in by_id:
            raise ValueError(f"{path}: POINTS names exercise {exercise.number} twice")
        by_id[exercise.id] = value
    return by_id


def read_cases(path: Path, cases: object) -> dict[str, Callable]:
    """Return the checks of a teacher by target."""
    if not isinstance(cases, dict):
        raise ValueError(f"{path}: CASES: expected a dict of functions and checks")
    targets = {target for exercise in EXERCISES for target in exercise.checks}
    for target, check in cases.items():
        if target not in targets:
            known = ", ".join(sorted(targets))
            raise ValueError(f"{path}: CASES: {target!r} is none of {known}")
        if not callable(check):
            raise ValueError(f"{path}: CASES: {target}: expected a function, found {check!r}")
    return cases
