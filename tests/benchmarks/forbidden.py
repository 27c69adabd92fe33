"""What nanos2t must not do, seen from inside its process: sockets, other processes, files
elsewhere.
"""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

EVENTS = "socket. subprocess. os.system os.exec os.posix_spawn os.fork pty. webbrowser.".split()
CHANGES = "os.remove os.rename os.mkdir os.rmdir os.chmod os.chown os.truncate os.symlink os.link shutil.".split()
TWO_PATHS = (
    "os.rename",
    "os.symlink",
    "os.link",
    "shutil.copyfile",
    "shutil.move",
)  # the second is made
SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of the system call


class Forbidden(list):
    """What happened since it was made, a line each, by sys.addaudithook. Changes in `folder` are
    allowed.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = str(folder)
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple) -> None:
        if event.startswith(tuple(EVENTS)):
            self.append(f"{event} {arguments}"[:200])
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            if writes and not self.is_inside(arguments[0]):
                self.append(f"opened to write: {arguments[0]!r}"[:200])
        elif event.startswith(tuple(CHANGES)) and not self.is_inside(arguments[event in TWO_PATHS]):
            self.append(f"{event} {arguments}"[:200])

    def is_inside(self, path: object) -> bool:
        path = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else os.devnull
        return f"{os.path.abspath(path)}/".startswith((f"{self.folder}/", f"{os.devnull}/"))


def no_sockets() -> bool:
    """From here on the kernel ends this process at socket(): seccomp. False where that is not to be
    had.
    """
    number = SOCKET.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    rules = struct.pack(
        "=" + "HBBI" * 4,
        *(0x20, 0, 0, 0),  # the number of the call:
        *(0x15, 0, 1, number),  # is it that of socket()?
        *(0x06, 0, 0, 0x80000000),  # then an end of the process,
        *(0x06, 0, 0, 0x7FFF0000),  # else it may go on
    )

    class Program(ctypes.Structure):
        _fields_ = [("count", ctypes.c_ushort), ("rules", ctypes.c_char_p)]

    libc = ctypes.CDLL(None)
    no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    return libc.prctl(set_seccomp, by_filter, ctypes.byref(Program(4, rules))) == 0
