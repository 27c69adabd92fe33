"""Files that are written whole or not at all, and JSON objects that are read."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # begins the pointers of Git LFS


def write_atomically(path: Path, write_part: Callable[[Path], object]) -> None:
    """Write a file whole or not at all: `write_part(part)` writes it beside, then it is renamed.

    Whenever the process dies, `path` is a whole file, old or new. Raises ValueError if it cannot
    be written; what was there is kept.
    """
    # In the same folder, because a file cannot be renamed to another disk.
    part = path.with_name(path.name + ".part")
    try:
        write_part(part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{path}: cannot be written ({find_reason(error)}): what was there is kept"
        ) from None
    finally:
        # After a failure the part is left; its folder may be missing, too.
        with suppress(OSError):
            part.unlink()


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
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial:
            write_parts(Path(partial))
            # Whoever finds the last file finds all of them.
            parts = sorted(Path(partial).iterdir(), key=lambda part: part.name == last)
            for part in parts:
                os.replace(part, folder / part.name)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{folder}: cannot write there ({find_reason(error)})") from None
    return [folder / part.name for part in parts]


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
        content = json.loads(path.read_text(encoding="utf-8"))
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
