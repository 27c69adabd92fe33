"""The folders of the exercises, and the student's copy of the stubs."""

import base64
import contextlib
import zlib
from pathlib import Path

from exercises.course import EXERCISES, select_exercises
from exercises.exercise import Exercise

HERE = Path(__file__).parent
WORK = HERE / "work"
STUBS = HERE / "stubs"
KEYS = HERE / "keys"
ANSWERS = HERE / "answers"
MISTAKES = HERE / "mistakes"
CLAUSES = HERE / "clauses"


def select_offered(words: list[str]) -> list[Exercise]:
    """Return the exercises that the words name, or all of them; a hand-out may have only some.

    ValueError: no exercise, or more than one, fits a word, or this hand-out does not have it.
    """
    exercises = select_exercises(words)
    if STUBS.is_dir():
        return exercises
    offered = [exercise for exercise in exercises if packed_key(exercise.id).exists()]
    for exercise in exercises:
        if words and exercise not in offered:
            raise ValueError(f"exercise {exercise.number} is not part of this hand-out")
    return offered


def prepare_work(folder: Path | None = None) -> bool:
    """Copy the stubs that a work folder lacks, by default WORK.

    Return False if there are no stubs: in a copy made by `nanos2t exercises export` the package
    itself is what students write.
    """
    folder = folder or WORK
    if not STUBS.is_dir():
        return False

    folder.mkdir(exist_ok=True)
    for exercise in EXERCISES:
        path = exercise.path(folder)
        if not path.exists():
            stub = exercise.path(STUBS).read_text(encoding="utf-8")
            path.write_text(stub, encoding="utf-8")
    return True


def read_key_text(identifier: str) -> str:
    """Return the JSON of a key. In a copy made by `nanos2t exercises export` it is packed."""
    path = KEYS / f"{identifier}.json"
    if path.exists():
        return path.read_text(encoding="utf-8")
    packed = packed_key(identifier).read_bytes()
    return zlib.decompress(base64.b64decode(packed)).decode("utf-8")


def packed_key(identifier: str) -> Path:
    return KEYS / f"{identifier}.key"


def relative_path(path: Path) -> str:
    """Return a path as seen from the current directory, or as it is if it lies elsewhere."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
