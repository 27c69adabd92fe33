"""One run at a time in a folder.

The lock is a POSIX record lock (fcntl.lockf). It belongs to a process: when that ends, however it
ends, the lock is gone, and no child process inherits it. The locks of flock would be inherited by
the workers that decode audio, which live on for some seconds when their run is killed.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanos2t.files import is_open_at

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

LOCK_FILE = "run.lock"


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other processes from training into it meanwhile.

    Raises ValueError if another process does that already, or if the folder cannot be written to.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = claim_lock(path) if fcntl else None
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}, expected a folder to write to") from None
    try:
        yield
    finally:
        # The file goes while it is locked, so that it is never that of another run.
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def claim_lock(path: Path) -> int:
    """Return the descriptor of a lock file that is locked. Nothing else may open and close it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not lock_process(descriptor):
                owner = os.read(descriptor, 200).decode(errors="replace") or "another process"
                raise ValueError(f"{path.parent}: {owner} trains there, expected one run at a time")
            # The run before may have removed the file after it was opened here.
            if is_open_at(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lock_process(descriptor: int) -> bool:
    """Lock a file for this process, not for its children. Returns whether no other one has it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        # A file system without locks: nothing can be told there.
        return True
    return True
