"""`nanos2t exercises`, and `--with` of transcribe and report: they run the grader of a checkout."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nanos2t.cli.console import FAILED, USAGE, exit_with, log_stderr, write_stdout
from nanos2t.cli.options import parse_count, parse_megabytes, parse_seconds, parse_seed

EXERCISES = Path("tutorials", "exercises")


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "exercises", help="rewrite functions of the core, and have them checked"
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help="numbers of exercises to check, default: all; hint, solution or reset and a number; "
        "export and a folder; or, for teachers, grade and a folder of submissions",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--reference", action="store_true", help="check the package's own functions"
    )
    parser.add_argument(
        "--yes", action="store_true", help="show a solution before the exercise is solved"
    )
    parser.add_argument(
        "--seed",
        type=parse_seed,
        metavar="N",
        help="repeat the random inputs of a run, whose number the grader has printed",
    )
    parser.add_argument(
        "--watch", action="store_true", help="check again on each save, until Ctrl-C"
    )
    parser.add_argument(
        "--solutions", action="store_true", help="export the solutions instead of a hand-out"
    )
    parser.add_argument(
        "--exercises",
        metavar="LIST",
        help="those of a hand-out, such as 1,2,5: the functions of all others stay in it",
    )
    add_class_options(parser)


def add_class_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `nanos2t exercises grade FOLDER`."""
    group = parser.add_argument_group("grade FOLDER, a folder or zip for each student")
    group.add_argument(
        "--assignment", metavar="FILE", help="a Python file with points, private cases and a seed"
    )
    group.add_argument(
        "--output",
        metavar="DIR",
        help="write grades.csv, grades.json, class.html, gradescope/, feedback/",
    )
    group.add_argument(
        "--gradescope", metavar="FILE", help="write the results.json of a single submission"
    )
    group.add_argument(
        "--jobs",
        type=parse_count,
        default=os.cpu_count(),
        help="students at a time; default: %(default)s",
    )
    group.add_argument(
        "--seconds",
        type=parse_seconds,
        default=10,
        help="time for a function; default: %(default)s",
    )
    group.add_argument(
        "--megabytes",
        type=parse_megabytes,
        default=2000,
        help="memory for a student; default: %(default)s",
    )


def add_words(options: argparse.Namespace, unknown: list[str]) -> list[str]:
    """Add the words after an option, which argparse does not take, and return what is no word."""
    options.words += [word for word in unknown if not word.startswith("-")]
    return [word for word in unknown if word.startswith("-")]


def run(options: argparse.Namespace) -> int:
    """Check the exercises, or do what the words say, and return the exit code."""
    with exit_with(USAGE):
        grader = find_grader()
        return grader.run(options, write_stdout)


@contextmanager
def replaced_functions(folder: str) -> Iterator[list[str]]:
    """Run with the functions in this folder of exercises in the place of the package's.

    The `with` block gets their names.
    """
    with exit_with(USAGE):
        grader = find_grader()
        functions = grader.load_folder(Path(folder).resolve(), log_stderr)
    with exit_with(FAILED), grader.student(functions):
        yield [target.split(":")[-1] for target in functions]


def find_grader() -> ModuleType:
    """Import the grader from the checkout around the current folder, or around this package.

    ValueError: there is none, or in a hand-out, whose package a student writes, it has an error.
    """
    here = Path.cwd()
    package_root = Path(__file__).parents[2]
    for folder in (here, *here.parents, package_root):
        if (folder / EXERCISES / "grader.py").exists():
            sys.path.insert(0, str(folder / EXERCISES.parent))
            start = import_module("exercises.start")
            return start.import_part("grader")
    raise ValueError(
        f"no {EXERCISES} in {here} or above it: go to a checkout of nanos2t, which has them"
    )
