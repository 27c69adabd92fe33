"""The command line: `nanos2t`, or `python -m nanos2t`. Each command has a file of its own.

Text goes to stdout, everything else to stderr. Exit codes: 0 all done, 1 some inputs failed,
2 usage, 3 the model cannot be loaded, 130 interrupted. Commands import torch and other slow
packages when they run, so that --help is fast.
"""

import argparse
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
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
from nanos2t.cli.console import (
    FAILED,
    INTERRUPTED,
    USAGE,
    CommandError,
    explain_unwritten,
    keep_log_level,
    log_stderr,
    write_stdout,
)
from nanos2t.training.stop_signals import STOP_SIGNALS

# What was interrupted has so much time to end, before it is interrupted once more.
SECONDS_TO_END = 1.0

# An import is not interrupted: after so much time it is looked whether it is over.
SECONDS_TO_IMPORT = 0.05


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


def refuse_words(command: str, words: list[str]) -> NoReturn:
    """Raise CommandError for words that a command does not know."""
    message = f"unrecognized arguments: {' '.join(words)}"
    for word in words:
        if word.startswith("-") and os.path.exists(word):
            message += f" (a file? write ./{word})"
    raise CommandError(f"{message} (nanos2t {command} --help tells more)", USAGE)


def check_current_folder() -> None:
    """Raise CommandError if the current folder was deleted: torch could not be loaded there."""
    try:
        os.getcwd()
    except OSError as error:
        raise CommandError(
            f"the current folder: {error.strerror}, expected one that exists: go to another one",
            USAGE,
        ) from None


class Interruption:
    """A handler of signals that remembers whether one came, and raises KeyboardInterrupt.

    It waits for the end of an import: torch's C++ code aborts if an exception passes through it.
    Some package may discard the exception, as in a callback: then it is raised again.
    """

    def __init__(self) -> None:
        self.received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # A terminal that is closed may send more than one, from the shell and from the system.
        if self.received and number not in (signal.SIGINT, signal.SIGTERM):
            return
        self.received = True
        if not self.waits_for_import(frame):
            self.set_alarm(SECONDS_TO_END)
            raise KeyboardInterrupt

    def waits_for_import(self, frame: FrameType | None) -> bool:
        """Return whether an import is running, and then call `raise_again` soon."""
        if not hasattr(signal, "setitimer") or not is_importing(frame):
            return False
        self.set_alarm(SECONDS_TO_IMPORT)
        return True

    def set_alarm(self, seconds: float) -> None:
        """Let `raise_again` be called in a while, where there are alarms: not on Windows."""
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self.raise_again)
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def raise_again(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, unless code is running that one has ended, as in `finally`."""
        if self.waits_for_import(frame):
            return
        self.set_alarm(SECONDS_TO_END)
        error = sys.exc_info()[1]
        while error is not None and not isinstance(error, KeyboardInterrupt):
            error = error.__context__
        if error is None:
            raise KeyboardInterrupt

    def clear_alarm(self) -> None:
        """Let it not be called any more."""
        if self.received and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def is_importing(frame: FrameType | None) -> bool:
    """Return whether a frame of the program is reached through an import that `main` began."""
    while frame is not None and frame.f_code is not main.__code__:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def main(arguments: list[str] | None = None) -> int:
    """Run a command line, by default that of this process, and return its exit code."""
    interruption = Interruption()
    try:
        # Commands change how warnings and the log are shown: that ends with them.
        with terminable(interruption), warnings.catch_warnings(), keep_log_level():
            parser = build_parser()
            options, unknown = parser.parse_known_args(arguments)
            if options.command == "exercises":
                unknown = exercises.add_words(options, unknown)
            # `train` has flags for all fields of a config.json, which no parser lists.
            if unknown and options.command == "train":
                train.add_config_changes(options, unknown)
            elif unknown:
                refuse_words(options.command, unknown)
            check_current_folder()
            return options.run(options)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        # Some packages raise another error if they are interrupted while they are imported.
        if not interruption.received:
            return report_error(error)
    log_stderr("interrupted")
    return INTERRUPTED


def report_error(error: Exception) -> int:
    """Write the line of an error that a user can cause, and return its exit code; raise others."""
    unwritten = explain_unwritten(error)
    if unwritten:
        log_stderr(unwritten)
        return FAILED
    if isinstance(error, ModuleNotFoundError):
        log_stderr(explain_missing(error))
        return FAILED
    if not isinstance(error, CommandError):
        raise error
    if str(error):
        log_stderr(error)
    return error.code


def explain_missing(error: ModuleNotFoundError) -> str:
    """Return a sentence about a package that is not installed. Raises the error for a file of ours.

    Whoever runs a checkout without its virtual environment has none of them.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("", "nanos2t"):
        raise error
    return (
        f"{package} is not installed for {sys.executable}, which nanos2t needs: activate its "
        "virtual environment, or install nanos2t as its README says"
    )


@contextmanager
def terminable(handler: Interruption) -> Iterator[None]:
    """Let the STOP_SIGNALS stop the program, but for those that it was started to ignore."""
    # Python allows only the main thread to set a handler.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    former_handlers = {}
    for number in STOP_SIGNALS:
        # None is a handler that was not set from Python.
        former_handlers[number] = signal.getsignal(number) or signal.SIG_DFL
    try:
        for number, former_handler in former_handlers.items():
            if former_handler != signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        handler.clear_alarm()
        for number, former_handler in former_handlers.items():
            signal.signal(number, former_handler)
