"""Files that are written whole or not at all, and JSON objects that are read.

A file is written beside its place first, into a part with a name of our own, and then moved. A
process holds a lock on its part as long as it lives: a part without a lock was left by a process
that was killed, and the next one that writes the same file removes it.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, parts of killed processes are left
    fcntl = None

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # begins the pointers of Git LFS

# As many parts of one file are looked for, when those of killed processes are removed.
MAX_LEFT_PARTS = 16


# Writing


def write_atomically(path: Path, write_part: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: `write_part(part)` writes it beside, then it is renamed.

    Whenever the process dies, `path` is a whole file, old or new. A link is kept, and its target
    written; a file that is replaced keeps its permissions. What is no regular file, as a pipe or a
    device, is written directly.

    Raises ValueError if it cannot be written; what was there is kept.
    """
    try:
        if is_stream(path):
            write_part(path)
            return
        target = Path(os.path.realpath(path))
        with new_part(target) as part:
            # We must be able to write the part, even if the old file was read-only.
            keep_mode(target, part, 0o600)
            write_part(part)
            keep_mode(target, part)
            os.replace(part, target)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot be written ({find_reason(error)}): what was there is kept"
        ) from None


def write_group(
    folder: Path, write_parts: Callable[[Path], object], last: str = "config.json"
) -> list[Path]:
    """Write files that belong together, each whole or not at all, and return their paths.

    `write_parts(partial)` writes all of them into an empty folder inside `folder`, from where they
    are moved, the one called `last` at the end. Raises ValueError if one cannot be written; as
    long as none is moved, all that was there is kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with new_part(folder / last) as part:
            partial = part_folder(part)
            partial.mkdir(0o700)
            write_parts(partial)

            # Whoever finds the last file finds all of them.
            parts = sorted(partial.iterdir(), key=lambda part: part.name == last)
            with locked_folder(folder):
                for part in parts:
                    keep_mode(folder / part.name, part)
                    os.replace(part, folder / part.name)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}: cannot write there ({find_reason(error)})") from None
    return [folder / part.name for part in parts]


def keep_mode(path: Path, part: Path, more: int = 0) -> None:
    """Give a part the permissions of the file that it will replace, if there is one, and `more`."""
    with suppress(OSError):
        mode = path.stat().st_mode & 0o777
        part.chmod(mode | more)


def is_stream(path: Path) -> bool:
    """Whether a path leads to something that cannot be replaced: a pipe, a device, a folder."""
    # /dev/stdout and /dev/fd/1 may be regular files, but not under these names.
    folder = os.path.realpath(path.parent)
    if folder == "/dev" or folder.startswith("/proc/"):
        return True
    return path.exists() and not path.is_file()


@contextmanager
def new_part(path: Path) -> Iterator[Path]:
    """Give a new and empty file beside `path`, locked, and remove it at the end unless it moved."""
    remove_left_parts(path)
    try:
        part, descriptor = claim_part(path)
    except BaseException:
        # An interruption may come when the part is made, but has no lock yet.
        remove_left_parts(path)
        raise
    try:
        yield part
    finally:
        # When a part was moved, its name may be that of another process's part already.
        if descriptor is None or is_open_at(part, descriptor):
            remove_part(part)
        if descriptor is not None:
            os.close(descriptor)


def part_path(path: Path, number: int) -> Path:
    """Return the path of a part: in the same folder, as no file can be renamed to another disk.

    The name of the file may be as long as a name can be, so that only a digest of it is used.
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()
    return path.with_name(f".nanos2t-{digest[:16]}-{number}.part")


def part_folder(part: Path) -> Path:
    """Return the folder for a group of files that belongs to a part."""
    return part.with_suffix(".parts")


def claim_part(path: Path) -> tuple[Path, int | None]:
    """Create and lock a part that no other process has. Returns its path and its descriptor."""
    # Where there are no locks, the number of the process keeps others from the name.
    number = -1 if fcntl else os.getpid()
    while True:
        number += 1
        part = part_path(path, number)
        try:
            descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            continue

        # On a file system without locks, as on Windows, nobody removes the parts of others.
        if fcntl is None:
            # Windows moves no file that is open.
            os.close(descriptor)
            return part, None
        try:
            # Another process may have taken it for a left one before it was locked.
            if lock_file(descriptor) is not False and is_open_at(part, descriptor):
                return part, descriptor
        except BaseException:
            # Without its lock, whoever comes next removes the part.
            os.close(descriptor)
            raise
        os.close(descriptor)


def remove_left_parts(path: Path) -> None:
    """Remove the parts of a file that no living process has locked."""
    for number in range(MAX_LEFT_PARTS):
        remove_left_part(part_path(path, number))


def remove_left_part(part: Path) -> None:
    """Remove a part, and the folder that belongs to it, if no living process holds its lock."""
    if fcntl is None:
        return
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        # It may have been moved to its place, and the name taken by another part.
        if lock_file(descriptor) and is_open_at(part, descriptor):
            remove_part(part)
    finally:
        os.close(descriptor)


def remove_part(part: Path) -> None:
    """Remove a part that no other process uses: the folder first, as the lock is on the file."""
    shutil.rmtree(part_folder(part), ignore_errors=True)
    with suppress(OSError):
        part.unlink()


def is_open_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def lock_file(descriptor: int) -> bool | None:
    """Lock an open file without waiting. Returns whether that was possible.

    False: another process has the lock. None: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait until no other process moves files into a folder, and keep others from it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_outputs(outputs: Iterable[str | Path], inputs: Iterable[str | Path]) -> None:
    """Raise ValueError if an output is an input, under whatever name, link or hard link.

    The input "-" is stdin. Only regular files are compared: nothing can be lost in a device.
    """
    name_of = {}
    for name in inputs:
        identity = identify_file(name)
        if identity is not None:
            name_of[identity] = name

    for output in outputs:
        input_name = name_of.get(identify_file(output))
        if input_name is not None:
            if str(input_name) == "-":
                input_name = "stdin"
            raise ValueError(f"{output}: would be written over the input {input_name}")


def identify_file(name: str | Path) -> tuple[int, int] | None:
    """Return device and number of a regular file, which all its names share; None: no such file."""
    try:
        status = os.fstat(0) if str(name) == "-" else os.stat(name)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino


def find_reason(error: BaseException) -> str:
    """Say why a file cannot be written. torch's writer has the file's error as its context."""
    for cause in (error, error.__context__):
        if getattr(cause, "strerror", None):
            return cause.strerror
    return first_line(error)


def write_text(path: Path, text: str) -> None:
    """Write text in UTF-8, whole or not at all. Lone surrogates are escaped: UTF-8 has none."""
    content = text.encode("utf-8", "backslashreplace")
    write_atomically(path, lambda part: part.write_bytes(content))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all, unless both are the same file."""
    if source.resolve() != target.resolve():
        write_atomically(target, lambda part: shutil.copyfile(source, part))


def format_json(content: dict[str, Any]) -> str:
    """Format JSON as transformers does: keys sorted, two spaces, a newline at the end."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError, naming the file, if it is missing or anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, RecursionError, ValueError) as error:
        check_downloaded(path)
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: {reason}, expected JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {type(content).__name__}, expected a JSON object")
    return content


def check_downloaded(path: Path) -> None:
    """Raise ValueError if a file is the pointer that Git LFS puts in the place of a large file."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return
    if is_pointer:
        raise ValueError(
            f"{path}: is a pointer of Git LFS, expected the file itself: run `git lfs pull` there"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    message = str(error).strip() or type(error).__name__
    return message.partition("\n")[0]
