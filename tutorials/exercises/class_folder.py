"""Find who has handed in, in a folder with the work of a class."""

import os
import re
import unicodedata
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from exercises.archives import SYSTEM, is_archive, strip_suffix
from exercises.course import EXERCISES
from exercises.submissions import find_exercise, match_number

# Lists that a teacher, or a learning platform, puts beside the work.
TABLES = {".csv", ".tsv", ".xls", ".xlsx", ".ods"}
# What learning platforms make of the name of a file: the name of the student comes first.
MOODLE = re.compile(r"(.+?)_assignsubmission_")
BLACKBOARD = re.compile(r"(.+?_attempt_\d[\d-]*)")
CANVAS = re.compile(r"(.+?)(?:_LATE)?_(\d+)_\d+_")


@dataclass
class Entries:
    """What lies in the folder of a class."""

    folders: list[Path] = field(default_factory=list)
    archives: list[Path] = field(default_factory=list)
    named_files: dict[str, list[Path]] = field(default_factory=dict)  # by the student's name
    nameless_files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


@dataclass
class Class:
    """The work of a class: the paths of each student, and which files are nobody's work."""

    students: dict[str, list[Path]]
    passed_over: list[str] = field(default_factory=list)


def find_submissions(folder: Path, assignment: Path | None = None) -> Class:
    """Return the work of each student, or of one if the folder itself has it.

    A student has a folder, an archive, or files whose names begin with the student's. Any other
    file is a student's, too: nothing that was handed in is passed over, but the teacher's lists.
    ValueError: there is nothing to grade, or it is not clear whose work something is.
    """
    if folder.is_file() and is_archive(folder.name):
        require_one_student(folder)
        return Class({strip_suffix(folder.name): [folder]})
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with a folder or a zip for each student")

    entries = sort_entries(folder)
    own = [path.name for path in entries.nameless_files]
    if (folder / "nanos2t" / "__init__.py").exists():
        own.append("nanos2t")
    others = find_others(entries)
    if own and others:
        raise ValueError(
            f"{folder}: whose is {own[0]}, beside the work of {', '.join(others[:3])}? Put it into "
            "the folder of its student; if all of it is the work of one, grade a zip of it"
        )
    if own or is_one_student(entries):
        return Class({folder.resolve().name: [folder]})

    tables = [path for path in entries.others if is_table(path, assignment)]
    students = name_students(entries, tables)
    if not students:
        raise ValueError(f"{folder}: expected a folder or a zip for each student, found none")
    for path in entries.archives:
        require_one_student(path)
    names = sorted(students, key=alphabetical)
    return Class({name: students[name] for name in names}, [path.name for path in tables])


def require_one_student(path: Path) -> None:
    """ValueError: a zip has the work of a class, as a learning platform packs it."""
    names = set()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = {find_platform_name(name) for name in archive.namelist()} - {""}
    if len(names) > 1:
        raise ValueError(f"{path}: it has the work of {len(names)} students: unpack it first")


def sort_entries(folder: Path) -> Entries:
    """Return what lies in a folder, sorted by what it is."""
    entries = Entries()
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in SYSTEM:
            continue
        is_file = path.is_file() and not path.is_symlink()
        if path.is_dir():
            entries.folders.append(path)
        elif is_archive(path.name):
            entries.archives.append(path)
        elif is_file and is_exercise(path.name):
            name = find_owner(path.name)
            if name:
                entries.named_files.setdefault(name, []).append(path)
            else:
                entries.nameless_files.append(path)
        else:
            entries.others.append(path)
    return entries


def is_exercise(name: str) -> bool:
    return find_exercise(name, list(EXERCISES)) is not None


def find_others(entries: Entries) -> list[str]:
    """Return what must be the work of others than whoever has the nameless files."""
    others = [path.name for path in entries.archives]
    others += [path.name for path in entries.folders if holds_work(path)]
    if not is_one_name(entries):
        others += list(entries.named_files)
    return others


def is_one_name(entries: Entries) -> bool:
    """Return whether all files may be of one student, who has put a name before some.

    That is not so for the names that learning platforms give.
    """
    paths = [path for group in entries.named_files.values() for path in group]
    has_platform_name = any(find_platform_name(path.name) for path in paths)
    return len(entries.named_files) < 2 and not has_platform_name


def is_one_student(entries: Entries) -> bool:
    """Return whether a folder has files of one student, and nothing of others."""
    has_others = entries.folders or entries.archives or not is_one_name(entries)
    return bool(entries.named_files) and not has_others


def holds_work(folder: Path) -> bool:
    """Return whether a folder has a file of an exercise, or an archive, anywhere in it."""
    for _, subfolders, names in os.walk(folder):
        subfolders[:] = set(subfolders) - SYSTEM
        if any(is_archive(name) or is_exercise(name) for name in names):
            return not is_hand_out(folder)
    return False


def is_hand_out(folder: Path) -> bool:
    """Return whether a folder is that of a hand-out which has the definitions of exercises."""
    return (folder / "exercises" / "course.py").exists()


def name_students(entries: Entries, tables: list[Path]) -> dict[str, list[Path]]:
    """Return {name: what the student has handed in}."""
    students = {name: list(paths) for name, paths in entries.named_files.items()}
    others = [path for path in entries.others if path not in tables]
    for path in [*entries.folders, *entries.archives, *others]:
        name = find_platform_name(path.name)
        if name:
            students.setdefault(name, []).append(path)
            continue
        name = path.name
        if not path.is_dir():
            name = strip_suffix(path.name)
        # A folder and a zip of one name are two submissions.
        if name in students:
            name = path.name
        students[name] = [path]
    return students


def find_owner(name: str) -> str:
    """Return whose file it is by its name, or "": "smith" for smith_ex5.py."""
    match = match_number(name)
    before = name[: match.start()] if match else ""
    return find_platform_name(name) or before.strip(" _-.")


def find_platform_name(name: str) -> str:
    """Return the name that a learning platform has put before that of a file, or ""."""
    for pattern in MOODLE, BLACKBOARD:
        if match := pattern.match(name):
            return match[1].rstrip("-")
    match = CANVAS.match(name)
    return f"{match[1]}_{match[2]}" if match else ""


def is_table(path: Path, assignment: Path | None) -> bool:
    """Return whether a file is the teacher's: a list, or the assignment."""
    if path.suffix.lower() in TABLES:
        return True
    return assignment is not None and path.resolve() == assignment.resolve()


def alphabetical(name: str) -> tuple[str, str]:
    """Return a key by which Çelik comes after Cooper, and before Davis."""
    letters = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain.casefold(), name
