"""Shared by tests: Python in a process of its own."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*arguments: str, **options) -> subprocess.Popen:
    """Start Python on these arguments, with this checkout, one thread, and pipes.

    The options are those of subprocess.Popen, and replace these.
    """
    defaults = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        # Without a buffer, readline() leaves the lines that communicate() reads.
        "bufsize": 0,
        "env": {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        # A process in the background would ignore Ctrl-C.
        "preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    }
    return subprocess.Popen([sys.executable, *arguments], **{**defaults, **options})


def is_running(number: int) -> bool:
    """Whether a thread of a process has not ended: until then its files and locks are held.

    A process that nobody waits for stays in the list as a zombie ("Z"), and its first thread can
    be one while others still run.
    """
    for path in Path(f"/proc/{number}/task").glob("*/stat"):
        try:
            status = path.read_text()
        except OSError:
            continue
        if status.rpartition(") ")[2][0] != "Z":
            return True
    return False
