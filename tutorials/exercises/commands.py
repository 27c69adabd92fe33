"""The command `nanos2t exercises` and the words after it."""

import contextlib
import inspect
import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from exercises import folders, handout, make
from exercises.course import EXERCISES, select_exercise, select_exercises
from exercises.drawn_cases import new_seed
from exercises.exercise import Exercise
from exercises.folders import prepare_work, relative_path, select_offered
from exercises.grade_class import Order, grade_class
from exercises.grading import OK, TODO
from exercises.processes import Limits, grade_exercises
from exercises.report import format_result, format_summary, format_task, note_delays
from exercises.targets import PACKAGE, is_written, package_function, source_location
from exercises.watch import watch_exercises

Write = Callable[[str], None]

INTERRUPTED = 130  # the exit code of what Ctrl-C has ended


def run(options: Namespace, write: Write) -> int:
    """Run a command, and return its exit code: 0 if all exercises that were asked for pass, else 1.

    `options` are those of nanos2t/cli/exercises.py. ValueError: the words are no command.
    """
    command = options.words[0] if options.words else ""
    arguments = options.words[1:]
    refuse_other_package()
    if options.exercises is not None and command != "export":
        raise ValueError("--exercises goes with export only")
    if command in ("export", "grade", "make", "reset"):
        return run_with_stubs(command, arguments, options, write)
    if command == "hint":
        return show_hint(arguments, write)
    if command == "solution":
        return show_solution(arguments, write, options.yes)

    exercises = select_offered(options.words)
    if options.watch:
        return watch(exercises, write, options)
    return grade(exercises, write, options)


def refuse_other_package() -> None:
    """ValueError: the package that runs is not the one beside these exercises."""
    own = folders.HERE.parents[1] / "nanos2t"
    if own.is_dir() and own.resolve() != PACKAGE.resolve():
        raise ValueError(
            f"this folder has a package of its own, {own}, and {PACKAGE} is installed: "
            f"run python -m nanos2t in {own.parent}, or pip install -e . there"
        )


def run_with_stubs(command: str, arguments: list[str], options: Namespace, write: Write) -> int:
    """Run a command that a hand-out does not have, and return its exit code."""
    if not folders.STUBS.is_dir():
        raise ValueError(
            f"this copy of the package is an exercise itself: it has nothing to {command}"
        )
    if command == "reset":
        return reset_exercise(arguments, write)
    if command == "export":
        return export_copy(arguments, write, options)
    if command == "make":
        return make_files(write)
    return grade_class(read_order(arguments, options), write)


def watch(exercises: list[Exercise], write: Write, options: Namespace) -> int:
    """Grade the work folder again on each save, until Ctrl-C; return the exit code.

    ValueError: an option does not go with that.
    """
    if options.json or options.reference:
        raise ValueError("--watch goes with neither --json nor --reference")
    folder = folders.WORK if prepare_work() else None
    try:
        watch_exercises(exercises, folder, write)
    except KeyboardInterrupt:
        write("\nNo longer watching.\n")
    return INTERRUPTED


def read_order(words: list[str], options: Namespace) -> Order:
    """Return what a teacher asks for. ValueError: a number is out of range."""
    if len(words) != 1:
        raise ValueError("expected: nanos2t exercises grade FOLDER")
    for name in "jobs", "seconds", "megabytes":
        value = getattr(options, name)
        if not 0 < value < 1e9:
            raise ValueError(f"--{name}: expected a number above 0, found {value}")

    paths = {}
    for name in "assignment", "output", "gradescope":
        value = getattr(options, name)
        paths[name] = Path(value) if value else None
    return Order(
        Path(words[0]),
        **paths,
        jobs=options.jobs,
        seconds=options.seconds,
        megabytes=options.megabytes,
        as_json=options.json,
    )


def grade(exercises: list[Exercise], write: Write, options: Namespace) -> int:
    """Grade the work folder, or the package itself, and write the results as lines or as JSON."""
    as_json = options.json
    is_new = not folders.WORK.exists()
    folder = folders.WORK if not options.reference and prepare_work() else None
    if folder and is_new and not as_json:
        write(f"Made {relative_path(folder)}, with a file for each exercise.\n\n")

    results = []
    seed = options.seed
    if seed is None:
        seed = new_seed()
    graded = grade_exercises(exercises, folder, Limits(seed=seed))
    for result in note_delays(exercises, graded):
        results.append(result)
        if not as_json:
            write(format_result(result) + "\n")

    passed = sum(result.status == OK for result in results)
    if as_json:
        details = [asdict(result) for result in results]
        summary = {"passed": passed, "total": len(results), "exercises": details}
        write(json.dumps(summary, indent=2) + "\n")
    else:
        write(format_summary(results, folder))
        if not folder and len(results) == 1 and results[0].status == TODO:
            # No stub says what to do: in a hand-out the package itself is what students write.
            write(f"\n{format_task(exercises[0])}")
    return 0 if passed == len(results) else 1


def select_one(words: list[str], command: str) -> Exercise:
    if len(words) != 1:
        raise ValueError(f"expected: nanos2t exercises {command} NUMBER")
    return select_exercises(words)[0]


def show_hint(words: list[str], write: Write) -> int:
    """Write one hint more each time, up to three; work/hints.json counts them."""
    exercise = select_one(words, "hint")
    path = folders.WORK / "hints.json"
    counts = read_counts(path)
    shown = min(3, counts.get(exercise.id, 0) + 1)

    folders.WORK.mkdir(exist_ok=True)
    path.write_text(json.dumps(counts | {exercise.id: shown}), encoding="utf-8")
    for number, text in enumerate(exercise.hints[:shown], 1):
        write(f"{number} of 3: {text}\n")
    if shown == 3:
        has_solutions = folders.STUBS.is_dir()
        more = f". nanos2t exercises solution {exercise.number} --yes" if has_solutions else ""
        write(f"No more hints{more}\n")
    return 0


def read_counts(path: Path) -> dict[str, int]:
    """Return how many hints of each exercise were shown; none if the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        counts = json.loads(path.read_text(encoding="utf-8"))
        return {key: int(count) for key, count in counts.items()}
    return {}


def show_solution(words: list[str], write: Write, yes: bool) -> int:
    """Write the package's own functions, if the exercise is solved or with --yes."""
    exercise = select_one(words, "solution")
    functions = {target: package_function(target) for target in exercise.checks}
    if not all(is_written(function) for function in functions.values()):
        raise ValueError("this copy of the package has no solutions")

    if not yes and not is_solved(exercise):
        write(f"Exercise {exercise.number} is not solved yet. To see it: add --yes\n")
        return 1
    for target, function in functions.items():
        write(f"# {source_location(target)}\n{inspect.getsource(function)}\n")
    return 0


def is_solved(exercise: Exercise) -> bool:
    return prepare_work() and next(grade_exercises([exercise], folders.WORK)).status == OK


def reset_exercise(words: list[str], write: Write) -> int:
    """Write the stub again; what was there is kept as NAME.py.1.bak, NAME.py.2.bak and so on."""
    exercise = select_one(words, "reset")
    path = exercise.path(folders.WORK)
    if path.exists():
        number = 1
        while path.with_name(f"{path.name}.{number}.bak").exists():
            number += 1
        backup = path.with_name(f"{path.name}.{number}.bak")
        path.rename(backup)
        write(f"What you had is now {relative_path(backup)}\n")

    prepare_work()
    write(f"{relative_path(path)} is as it was at the start\n")
    return 0


def export_copy(words: list[str], write: Write, options: Namespace) -> int:
    """Write a copy of the package without the bodies of the exercises' functions, or those."""
    if len(words) != 1:
        raise ValueError("expected: nanos2t exercises export FOLDER")
    folder = Path(words[0])
    if options.solutions:
        handout.export_solutions(folder)
        write(f"{folder}: the solutions, for teachers\n")
        return 0

    exercises = list(EXERCISES)
    if options.exercises is not None:
        names = [name.strip() for name in options.exercises.split(",")]
        chosen = [select_exercise(name) for name in names]
        exercises = [exercise for exercise in EXERCISES if exercise in chosen]
    handout.export_package(folder, exercises)
    write(
        f"{folder}: the package without the bodies, for students; "
        "nanos2t exercises there grades the package itself\n"
    )
    return 0


def make_files(write: Write) -> int:
    """Write stubs/ and keys/ again, for maintainers."""
    make.write_files()
    write(f"written: {relative_path(folders.STUBS)} and {relative_path(folders.KEYS)}\n")
    return 0
