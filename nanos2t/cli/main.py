"""The command line: `nanos2t`, or `python -m nanos2t`. Each command has a file of its own.

Text goes to stdout, everything else to stderr. Exit codes: 0 all done, 1 some inputs failed,
2 usage, 3 the model cannot be loaded, 130 interrupted. Commands import torch and other slow
packages when they run, so that --help is fast.
"""

import argparse
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import nanos2t
from nanos2t.cli import (
    align,
    demo,
    evaluate,
    exercises,
    info,
    parity,
    report,
    train,
    transcribe,
)
from nanos2t.cli.console import INTERRUPTED, USAGE, CommandError, log_stderr, write_stdout


class Parser(argparse.ArgumentParser):
    """A parser that raises CommandError where argparse would end the program."""

    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} ({self.prog} --help tells more)", USAGE)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        # An unwritable stdout must be an error, also for --help.
        write_stdout("")
        raise CommandError(message or "", status)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line with all commands."""
    parser = Parser(prog="nanos2t", description="Speech in, text out.")
    parser.add_argument("--version", action="version", version=f"nanos2t {nanos2t.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo.add_command(commands)
    transcribe.add_command(commands)
    info.add_command(commands)
    parity.add_command(commands)
    report.add_command(commands)
    align.add_command(commands)
    train.add_command(commands)
    evaluate.add_command(commands)
    exercises.add_command(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit code."""
    try:
        # Commands change how warnings are shown: that ends with them.
        with terminable(), warnings.catch_warnings():
            parser = build_parser()
            options, unknown = parser.parse_known_args(arguments)
            # `train` has flags for all fields of a config.json, which no parser lists.
            if unknown and options.command == "train":
                train.add_config_changes(options, unknown)
            elif unknown:
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            return options.run(options)
    except CommandError as error:
        if str(error):
            log_stderr(error)
        return error.code
    except KeyboardInterrupt:
        log_stderr("interrupted")
        return INTERRUPTED


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM stop the program as Ctrl-C does."""
    # Python allows only the main thread to set a handler.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    former_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        # None is a handler that was not set from Python.
        signal.signal(signal.SIGTERM, former_handler or signal.SIG_DFL)
