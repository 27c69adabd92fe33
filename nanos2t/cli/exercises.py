"""`nanos2t exercises` and `transcribe --with`: they run tutorials/exercises/grader.py of a checkout."""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

PLACE = Path("tutorials", "exercises")


def add_command(commands) -> None:
    parser = commands.add_parser(
        "exercises", help="write the core's functions again, and have them checked"
    )
    parser.set_defaults(run=run)
    words = (
        "numbers, default: all; or hint, solution or reset and a number; or export and a new folder"
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help=words)
    parser.add_argument("--json", action="store_true", help="the results as JSON")
    parser.add_argument(
        "--reference", action="store_true", help="check the package's own functions"
    )
    parser.add_argument(
        "--yes", action="store_true", help="show a solution before the exercise is solved"
    )


def find_grader() -> ModuleType:
    """The grader of this folder, of one above it, or beside the package; ValueError if there is none."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).parents[2]):
        if (folder / PLACE / "grader.py").exists():
            sys.path.insert(0, str(folder / PLACE.parent))
            return import_module("exercises.grader")
    raise ValueError(
        f"no {PLACE} in {here} or above it: go to a checkout of nanos2t, which has them"
    )


def run(options: argparse.Namespace) -> int:
    from nanos2t.cli import main as cli

    with cli.exit_with(cli.USAGE):
        return find_grader().run(
            options.words, cli.write_stdout, options.json, options.reference, options.yes
        )


def run_with(command: Callable, options: argparse.Namespace) -> int:
    """Run a command; if there is --with, with the functions in its folder in the place of the package's."""
    if options.work is None:
        return command(options)
    from nanos2t.cli import main as cli

    with cli.exit_with(cli.USAGE):
        grader = find_grader()
        functions = grader.load_folder(Path(options.work).resolve(), cli.log_stderr)
    # The exercises are functions of the core, which the fast modules do not call.
    options.fast = False
    with cli.exit_with(cli.FAILED), grader.student(functions):
        return command(options)
