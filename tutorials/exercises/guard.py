"""Limits of a process that runs a student's code while a teacher grades a class.

They tell apart what an honest mistake does and what nobody needs, and give it a name. Whoever wants
to get out gets out: strangers' code belongs in a container.
"""

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

from exercises.targets import PACKAGE

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# The beginnings of audit events (docs.python.org/3/library/audit_events.html), and what they mean.
REFUSED = {
    "os.fork": "it starts another process",
    "os.posix_spawn": "it starts another program",
    "os.spawn": "it starts another program",
    "os.exec": "it starts another program",
    "os.system": "it starts another program",
    "pty.spawn": "it starts another program",
    "subprocess.Popen": "it starts another program",
    "os.kill": "it ends a process",
    "signal.pthread_kill": "it ends a process",
    "ctypes.dl": "it calls a library of the system",
    "resource.": "it changes its own limits",
    "socket.": "it uses the network",
    "shutil.": "it changes files",
    "os.remove": "it removes a file",
    "os.rename": "it renames a file",
    "os.mkdir": "it makes a folder",
    "os.rmdir": "it removes a folder",
    "os.truncate": "it changes a file",
    "os.chmod": "it changes a file",
    "os.chown": "it changes a file",
    "os.link": "it makes a link",
    "os.symlink": "it makes a link",
}

# What Python, numpy and torch raise if there is no memory.
NO_MEMORY = re.compile(r"\b(_Array)?MemoryError:.*?(?= \(line|$)|\bRuntimeError: .*allocate.*")


class Guard:
    """An audit hook that raises PermissionError for what a student's code has no need to do.

    Files may be written in `scratch`: torch has a need to.
    """

    def __init__(self, private: list[str], folder: str, scratch: str):
        self.private = [os.path.realpath(path) for path in private]
        self.folder = folder
        self.scratch = os.path.realpath(scratch)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event == "open":
            self.check_open(*arguments)
            return
        for beginning, sentence in REFUSED.items():
            if event.startswith(beginning) and not self.is_in_scratch(arguments):
                raise PermissionError(f"{sentence} ({event}), which is refused")

    def is_in_scratch(self, arguments: tuple) -> bool:
        """Return whether an event is about files in the scratch folder, and no others."""
        paths = [part for part in arguments if isinstance(part, (str, bytes, os.PathLike))]
        places = [os.path.realpath(os.fsdecode(path)) for path in paths]
        return bool(places) and all(place.startswith(self.scratch + os.sep) for place in places)

    def check_open(self, path: object, mode: str | None, flags: int) -> None:
        """Refuse to write files elsewhere, and to read those that are private."""
        is_writing = bool(flags & WRITING) or bool(mode and set(mode) & set("wax+"))
        if is_writing and path != os.devnull and not self.is_in_scratch((path,)):
            raise PermissionError(f"it writes a file ({short_path(path)}), which is refused")

        if not isinstance(path, (str, bytes)):
            return
        place = os.path.realpath(os.fsdecode(path))
        is_private = any(Path(place).is_relative_to(folder) for folder in self.private)
        # What the package looks like inside is the answer, too. Only `import` needs to read it.
        is_source = Path(place).is_relative_to(PACKAGE) and place.endswith((".py", ".pyc"))
        if is_private and self.is_student_calling() or is_source and self.is_student_calling(True):
            raise PermissionError(f"it reads {short_path(path)}, which is refused")

    def is_student_calling(self, except_import: bool = False) -> bool:
        """Return whether a function of a student's file has led to this call."""
        frame = sys._getframe()
        while frame:
            name = frame.f_code.co_filename
            if name.startswith(self.folder):
                return True
            if except_import and name.startswith("<frozen importlib"):
                return False
            frame = frame.f_back
        return False


def short_path(path: object) -> str:
    """Return the name of a file: its folders are the teacher's own."""
    if isinstance(path, int):
        return f"number {path}"
    return os.path.basename(os.fsdecode(path))


def guard_process(private: list[str], folder: str) -> None:
    """Refuse from now on what Guard refuses, in this process, to files of the student's folder."""
    scratch = Path(folder) / "tmp"
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = str(scratch)
    sys.addaudithook(Guard(private, folder, str(scratch)))


def limit_resources(megabytes: int | None, seconds: float) -> None:
    """Limit the memory that this process may ask for, on Linux only, and its time.

    The time is far more than all exercises take: the process ends also if nobody ends it.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        time_limit = int(100 * max(1, seconds))
        resource.setrlimit(resource.RLIMIT_CPU, (time_limit, time_limit))
        if not megabytes:
            return
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def explain_memory(sentence: str, megabytes: int | None) -> str:
    """Return a sentence about an exception, in plain words if it says that there is no memory."""
    if not megabytes:
        return sentence
    return NO_MEMORY.sub(f"it asks for more than {megabytes:,} MB of memory", sentence)
