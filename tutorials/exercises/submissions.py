"""Find the files of exercises in what students hand in: a folder or a zip for each.

Students hand in files such as ex05_attention.py, or the package of a hand-out, in which they have
written the functions.

Nothing is unpacked: the files are read into memory, so that a path such as ../../grades.csv in a
zip leads nowhere. What is passed over is told in a note.
"""

import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from exercises.exercise import Exercise

MAX_BYTES = 1_000_000  # of one file; the longest answer has 5,000
MAX_ENTRIES = 20_000  # of one submission
# Folders of a checkout that is handed in whole, and of systems; the work is elsewhere.
PASSED_OVER = {"__MACOSX", "__pycache__", "answers", "stubs", "mistakes", "site-packages"}
BROKEN_ZIP = (zipfile.BadZipFile, RuntimeError, ValueError, OSError, EOFError, zlib.error)


@dataclass
class Submission:
    """What a student has handed in: the bytes of a file by the id of the exercise.

    With `is_package`, the files are modules of the package.
    """

    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_package: bool = False


@dataclass
class Candidate:
    """A file that may belong to an exercise, in the order in which they are preferred."""

    rank: tuple[bool, int, str]  # the name differs, how many folders deep, path
    data: bytes


def find_submissions(folder: Path, exercises: list[Exercise]) -> dict[str, Path]:
    """Return {name of a student: folder or zip}, or the folder itself if it has the files.

    ValueError: there is nothing to grade.
    """
    if folder.is_file() and folder.suffix.lower() == ".zip":
        return {folder.stem: folder}
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with a folder or a zip for each student")

    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    has_files = any(find_exercise(path.name, exercises) for path in entries if path.is_file())
    if has_files or (folder / "nanos2t" / "__init__.py").exists():
        return {folder.resolve().name: folder}

    sources = {}
    for path in entries:
        is_zip = path.suffix.lower() == ".zip" and not path.is_dir()
        if is_zip or (path.is_dir() and path.name not in PASSED_OVER):
            name = path.stem if is_zip else path.name
            # A folder and a zip of one name are two submissions.
            sources[path.name if name in sources else name] = path
    if not sources:
        raise ValueError(f"{folder}: expected a folder or a zip for each student, found none")
    return sources


def read_submission(name: str, path: Path, exercises: list[Exercise]) -> Submission:
    """Return the files of a student. What cannot be read is missing, and a note says why."""
    submission = Submission(name)
    candidates: dict[str, list[Candidate]] = {}
    try:
        for place, data in list_files(path, exercises, submission.notes):
            key, is_other = find_key(place, exercises)
            candidate = Candidate((is_other, len(place.parts), str(place)), data)
            candidates.setdefault(key, []).append(candidate)
    except OSError as error:
        submission.notes.append(f"it cannot be read: {error.strerror or error}")

    files = {}
    for key, found in candidates.items():
        found.sort(key=lambda candidate: candidate.rank)
        files[key] = found[0].data
        if len(found) > 1:
            taken, passed_over = (candidate.rank[-1] for candidate in found[:2])
            submission.notes.append(f"graded {taken}, not {passed_over}")

    submission.files = {key: data for key, data in files.items() if not is_module(key)}
    if files and not submission.files:
        submission.is_package = True
        submission.files = join_modules(files, exercises)
    if not submission.files and not submission.notes:
        submission.notes.append("it has no file of an exercise")
    return submission


def find_key(place: PurePosixPath, exercises: list[Exercise]) -> tuple[str, bool] | None:
    """Return the id of an exercise or the path of a module, and whether it has another name."""
    match = find_exercise(place.name, exercises)
    if match and not is_definition(place):
        return match[0].id, match[1]
    for module in list_modules(exercises):
        if f"/{place}".endswith(f"/{module}"):
            return module, False
    return None


def is_definition(place: PurePosixPath) -> bool:
    """Return whether a file of a hand-out says what an exercise is; the work is elsewhere."""
    return place.parts[-3:-1] == ("tutorials", "exercises")


def is_module(key: str) -> bool:
    return key.endswith(".py")


def list_modules(exercises: list[Exercise]) -> list[str]:
    """Return the paths of the modules that have functions of these exercises."""
    targets = [target for exercise in exercises for target in exercise.checks]
    return list(dict.fromkeys(module_path(target) for target in targets))


def module_path(target: str) -> str:
    """Return "nanos2t/transcription/alignment.py" for "transcription.alignment:dtw"."""
    module = target.partition(":")[0].replace(".", "/")
    return f"nanos2t/{module}.py"


def join_modules(modules: dict[str, bytes], exercises: list[Exercise]) -> dict[str, bytes]:
    """Return for each exercise the modules, one after the other, that have its functions."""
    files = {}
    for exercise in exercises:
        paths = list_modules([exercise])
        if all(path in modules for path in paths):
            # The grader knows the package's functions by their code, to which the line belongs.
            # With one line more, nobody is suspected who has written the same in the same place.
            texts = [f"# {path}\n".encode() + modules[path] for path in paths]
            files[exercise.id] = b"\n".join(texts)
    return files


def find_exercise(name: str, exercises: list[Exercise]) -> tuple[Exercise, bool] | None:
    """Return the exercise to which a file belongs, and whether its name is another one.

    Browsers and learning platforms change names: "ex05_attention (1).py", "smith_ex5.py".
    """
    if not name.lower().endswith(".py"):
        return None
    for exercise in exercises:
        if name.lower() == f"{exercise.name}.py":
            return exercise, False
    match = re.search(r"(?<![a-z0-9])ex0*(\d+)(?!\d)", name.lower())
    for exercise in exercises:
        if match and exercise.number == int(match[1]):
            return exercise, True
    return None


def list_files(
    path: Path, exercises: list[Exercise], notes: list[str]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the place and the bytes of each file of an exercise in a folder or a zip."""
    if path.is_symlink():
        notes.append(f"{path.name} is a link, which is not followed")
        return
    if not path.is_dir():
        yield from list_zip(path, exercises, notes)
        return

    count = 0
    for root, folders, names in os.walk(path):
        folders[:] = sorted(set(folders) - PASSED_OVER)
        for name in sorted(names):
            count += 1
            if count > MAX_ENTRIES:
                notes.append(f"it has more than {MAX_ENTRIES:,} files: the others are not read")
                return
            yield from list_entry(Path(root, name), path, exercises, notes)


def list_entry(
    path: Path, root: Path, exercises: list[Exercise], notes: list[str]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield one file of a folder, or those of a zip in it, as learning platforms pack them."""
    place = PurePosixPath(path.relative_to(root).as_posix())
    is_zip = path.suffix.lower() == ".zip"
    if not is_zip and not find_key(place, exercises):
        return
    if path.is_symlink() or not path.is_file():
        notes.append(f"{place} is a link or no file, and is not read")
    elif is_zip:
        yield from list_zip(path, exercises, notes)
    elif path.stat().st_size > MAX_BYTES:
        notes.append(f"{place} is too large, and is not read")
    else:
        yield place, path.read_bytes()


def list_zip(
    path: Path, exercises: list[Exercise], notes: list[str]
) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the files of exercises in a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist()[:MAX_ENTRIES]:
                place = PurePosixPath(entry.filename.replace("\\", "/"))
                if entry.is_dir() or PASSED_OVER & set(place.parts):
                    continue
                if not find_key(place, exercises):
                    continue
                problem = find_problem(entry, place)
                if problem:
                    notes.append(f"{place} {problem}, and is not read")
                    continue
                with archive.open(entry) as file:
                    data = file.read(MAX_BYTES + 1)
                if len(data) > MAX_BYTES:
                    notes.append(f"{place} is too large, and is not read")
                else:
                    yield place, data
    except BROKEN_ZIP as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        notes.append(f"{path.name} cannot be read as a zip: {reason}")


def find_problem(entry: zipfile.ZipInfo, place: PurePosixPath) -> str:
    """Return why an entry of a zip is not to be read, or ""."""
    if place.is_absolute() or ".." in place.parts or ":" in place.parts[0]:
        return "leads out of the zip"
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "is a link"
    if entry.flag_bits & 1:
        return "is encrypted"
    if entry.file_size > MAX_BYTES:
        return "is too large"
    return ""
