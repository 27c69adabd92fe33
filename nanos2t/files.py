"""Files that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write_part: Callable[[Path], object]) -> None:
    """`write(part)` beside, then rename: whenever the process dies, `path` is a whole file, old or new.
    ValueError if it can not be written; what was there is kept.
    """
    part = path.with_name(path.name + ".part")
    try:
        write_part(part)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer has the file's error in its own
        reason = (
            getattr(error, "strerror", None)
            or getattr(error.__context__, "strerror", None)
            or error
        )
        raise ValueError(f"{path}: can not be written ({reason}): what was there is kept") from None
    finally:
        with suppress(OSError):
            part.unlink()


def write_text(path: Path, text: str) -> None:
    """In UTF-8; lone surrogates, which it does not have, are escaped."""
    write_atomically(path, lambda part: part.write_bytes(text.encode("utf-8", "backslashreplace")))


def copy_file(file: Path, path: Path) -> None:
    """Nothing to do if they are the same."""
    if file.resolve() != path.resolve():
        write_atomically(path, lambda part: shutil.copyfile(file, part))


def read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(
            f"{path}: {getattr(error, 'strerror', None) or error}, expected JSON"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {type(found).__name__}, expected a JSON object")
    return found


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]
