"""What nanos2t must not do, observed inside its process: open sockets, start other processes, or
change files outside its folder.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

# Audit events (sys.addaudithook) that are forbidden anywhere, by the beginnings of their names.
EVENTS = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pty.",
    "webbrowser.",
)

# Audit events that are allowed in one folder only.
CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "os.symlink",
    "os.link",
    "shutil.",
)

# Those with two paths: the second is the one that is created.
TWO_PATHS = ("os.rename", "os.symlink", "os.link", "shutil.copyfile", "shutil.move")

# The number of the system call socket(), by machine.
SOCKET_CALL = {"x86_64": 41, "aarch64": 198}

# Of prctl(2).
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2


class Forbidden(list):
    """What happened in this process since the list was made, one line for each event.

    Changes of files are allowed in `folder`.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = str(folder)
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if event.startswith(EVENTS):
            self.append(f"{event} {arguments}"[:200])
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and not self.is_allowed(arguments[0]):
                self.append(f"opened to write: {arguments[0]!r}"[:200])
        elif event.startswith(CHANGES):
            path = arguments[1] if event in TWO_PATHS else arguments[0]
            if not self.is_allowed(path):
                self.append(f"{event} {arguments}"[:200])

    def is_allowed(self, path: object) -> bool:
        """Return whether a path is inside the folder. File descriptors are allowed."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return True
        absolute = os.path.abspath(os.fsdecode(path))
        return f"{absolute}/".startswith((f"{self.folder}/", f"{os.devnull}/"))


def no_sockets() -> bool:
    """Let the kernel end this process at its next call of socket().

    Returns False where that is not possible: it needs Linux and seccomp.
    """
    call = SOCKET_CALL.get(platform.machine())
    if sys.platform != "linux" or call is None:
        return False

    # A program for the kernel, of four instructions.
    rules = struct.pack(
        "=" + "HBBI" * 4,
        *(0x20, 0, 0, 0),  # load the number of the system call
        *(0x15, 0, 1, call),  # if it is not that of socket(), skip the next instruction
        *(0x06, 0, 0, 0x80000000),  # end the process
        *(0x06, 0, 0, 0x7FFF0000),  # allow the call
    )

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("rules", ctypes.c_char_p)]

    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    program = Program(4, rules)
    return libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)) == 0
