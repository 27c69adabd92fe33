"""Shared by tests."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*arguments: str, **more) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    interruptible = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # else not in the background
    pipes["bufsize"] = 0  # or readline() takes lines that communicate() then misses
    return subprocess.Popen(
        [sys.executable, *arguments], env=environment, preexec_fn=interruptible, **{**pipes, **more}
    )
