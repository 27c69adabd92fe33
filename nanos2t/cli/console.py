"""What all commands do at the terminal: stdout, lines on stderr, exit codes, progress bars."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from tqdm import tqdm

# The message of the exception that stands for a body in `nanos2t exercises export`
UNWRITTEN = re.compile(r"ex(\d\d)")

FAILED = 1
USAGE = 2
NO_MODEL = 3
INTERRUPTED = 130

# C0 and C1 controls without tab and newline. A name of a file may have them, and so move the
# cursor, change colours, or set the title of a window.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

SECONDS_BAR = (
    "{percentage:3.0f}% |{bar}| {n:.0f}/{total_fmt} s of audio, {rate_noinv_fmt}, {remaining} left"
)


class CommandError(Exception):
    """End the program with a line on stderr, or none if the message is empty, and an exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


@contextmanager
def exit_with(
    code: int,
    prefix: str = "",
    kinds: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError),
) -> Iterator[None]:
    """Turn the errors of a broken input into a CommandError, whose message begins with `prefix`."""
    try:
        yield
    except kinds as error:
        message = explain_unwritten(error) or str(error)
        raise CommandError(prefix + message.removeprefix(prefix), code) from None


def explain_unwritten(error: Exception) -> str:
    """Return a sentence about a function that an exercise has left to the student, or ""."""
    match = UNWRITTEN.fullmatch(str(error))
    if not isinstance(error, NotImplementedError) or not match:
        return ""
    number = int(match[1])
    return f"this needs exercise {number}, which is not written yet: nanos2t exercises {number}"


def log_stderr(message: object) -> None:
    """Write one line to stderr, if there is one."""
    if sys.stderr is None:
        return
    line = escape_controls(" ".join(str(message).split()))
    with suppress(OSError):
        print("nanos2t:", line, file=sys.stderr, flush=True)


def write_stdout(text: str, is_needed: bool = True) -> None:
    """Write text to stdout at once. Characters that its encoding lacks are escaped.

    is_needed: whether it is an error if stdout is closed. It is none if a file has the text, too.
    """
    if sys.stdout is None:
        if is_needed:
            raise CommandError("stdout: closed", FAILED)
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if sys.stdout.isatty():
        text = escape_controls(text)
    printable = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(printable, end="", flush=True)
    except BrokenPipeError:
        # The reader has read enough, as `head` does.
        discard_stdout()
        raise CommandError("", FAILED) from None
    except OSError as error:
        discard_stdout()
        raise CommandError(f"stdout: {error.strerror}", FAILED) from None


def escape_controls(text: str) -> str:
    """Escape the characters that a terminal would obey; lines and tabs stay."""
    return CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def discard_stdout() -> None:
    """Send stdout nowhere: otherwise Python writes what is left once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ClosedStdin:
    """Stands for stdin if it is closed: whoever reads it has an error that says so."""

    def read(self, count: int = -1) -> bytes:
        raise OSError("stdin is closed")


def open_source(name: str) -> str | BinaryIO | ClosedStdin:
    """Return what to load audio from: the path, or for "-" stdin."""
    if name != "-":
        return name
    if sys.stdin is None:
        return ClosedStdin()
    return sys.stdin.buffer


def show_warnings(quiet: bool) -> None:
    """Show warnings as lines on stderr, or not at all."""

    def show_warning(message: Warning, *details) -> None:
        from tqdm import tqdm

        # A progress bar moves down to make room for the line.
        with tqdm.external_write_mode():
            log_stderr(f"warning: {message}")

    logger = logging.getLogger("nanos2t")
    warnings.showwarning = show_warning
    if quiet:
        warnings.simplefilter("ignore", UserWarning)
        logger.setLevel(logging.ERROR)
    else:
        # Not once for each place in the code: another file may have the same problem.
        warnings.simplefilter("always", UserWarning)
        logger.setLevel(logging.NOTSET)


@contextmanager
def keep_log_level() -> Iterator[None]:
    """Give the package's logger the level back that it has now."""
    logger = logging.getLogger("nanos2t")
    level = logger.level
    try:
        yield
    finally:
        logger.setLevel(level)


class LogHandler(logging.Handler):
    """Writes what is logged as lines on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode():
            log_stderr(record.getMessage())


@contextmanager
def show_log(quiet: bool = False) -> Iterator[None]:
    """Show all that the package logs meanwhile, how far it is included; only errors if `quiet`."""
    logger = logging.getLogger("nanos2t")
    handler = LogHandler()
    former_level = logger.level
    logger.addHandler(handler)
    level = logging.ERROR if quiet else logging.INFO
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(former_level)


def hides_progress(quiet: bool) -> bool:
    """Return whether a progress bar is unwanted, or nobody would see it."""
    return quiet or sys.stderr is None or not sys.stderr.isatty()


def open_seconds_bar(total: int | None, hidden: bool) -> "tqdm":
    """Return a progress bar that counts seconds of audio."""
    from tqdm import tqdm

    return tqdm(total=total, disable=hidden, bar_format=SECONDS_BAR)


def open_items_bar(total: int, hidden: bool) -> "tqdm":
    """Return a progress bar that counts items of a manifest."""
    from tqdm import tqdm

    return tqdm(total=total, disable=hidden, unit=" items")
