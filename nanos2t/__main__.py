"""The program: `nanos2t`, or `python -m nanos2t`.

It begins before anything slow is imported, so that Ctrl-C ends it in one line from the first
moment. nanos2t/cli/main.py has the command line itself, and stops it in an orderly way.
"""

import os
import signal
import sys
from contextlib import suppress

INTERRUPTED = 130


def run_program() -> int:
    """Run the command line of this process, and return its exit code."""
    # Under nohup, for one, interrupts are ignored, and stay so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)
    sys.unraisablehook = report_unraisable
    reserve_descriptors()

    from nanos2t.cli.main import main

    code = main()

    # The line that tells it was written: whoever presses Ctrl-C again need not read a second one.
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def reserve_descriptors() -> None:
    """Open the null device in place of stdin, stdout and stderr that are closed.

    Otherwise a recording or a model that is opened later would get their numbers, and what a
    library writes to stderr. In Python they stay None.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is the one that is missing.
            os.open(os.devnull, os.O_RDWR)


def leave(*_) -> None:
    """End the process at once: nothing has begun, or all is done."""
    with suppress(OSError):
        os.write(2, b"nanos2t: interrupted\n")
    os._exit(INTERRUPTED)


def report_unraisable(problem) -> None:
    """End the process if it is interrupted in a destructor or callback, which cannot raise."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        leave()
    sys.__unraisablehook__(problem)


if __name__ == "__main__":
    raise SystemExit(run_program())
