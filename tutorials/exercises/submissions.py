"""Find the work of a student in what was handed in.

Students hand in files such as ex05_attention.py, or the package of a hand-out, in which they have
written the functions. What is passed over is told in a note.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from exercises.archives import Reading, read_path
from exercises.course import EXERCISES
from exercises.exercise import Exercise
from exercises.targets import PACKAGE

# Folders of a checkout that has them all: what is in them came with the course.
COURSE_FOLDERS = {"answers", "stubs"}
# What the grader, the hand-out and the system have beside the work.
BESIDE = {"hints.json", "TASKS.md", "Thumbs.db", "desktop.ini"}
BESIDE_SUFFIXES = {".bak", ".key", ".pyc"}
NUM_NAMES = 5  # of files that a note shows
# How sentences and tracebacks name a line of the file that is graded.
LINE = re.compile(r"(?:\bex\d\d_\w+\.py, |^|(?<=\()|(?<=, ))line (\d+)", re.MULTILINE)

# How a file says to which exercise it belongs: the best first.
EXACT, MODULES, OTHER_NAME, MODULES_ELSEWHERE = range(4)

Files = list[tuple[PurePosixPath, bytes]]


@dataclass
class Submission:
    """What a student has handed in: the bytes of a file by the id of the exercise.

    Those in `from_modules` are modules of the package, one after the other.
    """

    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    from_modules: set[str] = field(default_factory=set)


@dataclass
class Candidate:
    """What may be the work on an exercise: a file, or the modules that have its functions."""

    kind: int
    places: list[PurePosixPath]
    data: bytes
    is_unwritten: bool

    @property
    def name(self) -> str:
        return " and ".join(map(str, self.places))

    @property
    def rank(self) -> tuple[bool, int, int, int, str]:
        """Return the order in which candidates are preferred."""
        depth = max(len(place.parts) for place in self.places)
        # Of several files with other names, "smith_ex05-1.py" came after "smith_ex05.py".
        match = re.search(r"[-(](\d{1,2})\)?\.py", self.name)
        version = int(match[1]) if match and self.kind == OTHER_NAME else 0
        return self.is_unwritten, self.kind, -version, depth, self.name


def read_submission(name: str, paths: list[Path], exercises: list[Exercise]) -> Submission:
    """Return the files of a student. What cannot be read is missing, and a note says why."""
    reading = Reading(partial(is_work, exercises=exercises))
    for path in paths:
        read_path(path, reading)
    submission = Submission(name, notes=reading.notes)
    course_folders = find_course_folders(reading.files)
    files = [item for item in reading.files if item[0].parent not in course_folders]

    has_exact = any(exact_exercise(place.name, exercises) for place, _ in files)
    used: set[PurePosixPath] = set()
    for exercise in exercises:
        candidates = list_files(exercise, files, exercises)
        # The package of a checkout is the course's, as is one that nobody has changed.
        for modules in list_modules(exercise, files):
            if not course_folders and not (has_exact and is_unchanged(modules, exercise)):
                candidates.append(modules)
        if candidates:
            take_best(exercise, candidates, submission)
        used.update(place for candidate in candidates for place in candidate.places)

    unused = [place for place, _ in files if place not in used]
    note_unread(submission, unused, reading.unread)
    if course_folders:
        names = " and ".join(sorted(map(str, course_folders)))
        submission.notes.append(f"not read: {names}, which came with the course")
    return submission


def take_best(exercise: Exercise, candidates: list[Candidate], submission: Submission) -> None:
    """Take one of the candidates, and note which others had something in them."""
    best, *others = sorted(candidates, key=lambda candidate: candidate.rank)
    submission.files[exercise.id] = best.data
    if best.kind in (MODULES, MODULES_ELSEWHERE):
        submission.from_modules.add(exercise.id)
    others = [other for other in others if other.data != best.data and not other.is_unwritten]
    if others:
        names = ", ".join(other.name for other in others)
        submission.notes.append(f"graded {best.name}, not {names}")


def note_unread(
    submission: Submission, unused: list[PurePosixPath], unread: list[PurePosixPath]
) -> None:
    """Note which files were not read, and whether there is nothing to grade.

    `unused` are files of exercises or modules which are not enough for an exercise.
    """
    if not submission.files and not submission.notes:
        submission.notes.append("it has no file of an exercise")
    places = [place for place in unread if not find_exercise(place.name, list(EXERCISES))]
    if submission.files:
        places += unused
    names = [str(place) for place in places if not came_with_the_course(place)]
    if not submission.files:
        names += map(str, unused)
    if names:
        submission.notes.append(f"not read: {shorten(names)}")


def shorten(names: list[str]) -> str:
    """Return some names, and how many others there are."""
    text = ", ".join(names[:NUM_NAMES])
    if len(names) > NUM_NAMES:
        text += f" and {len(names) - NUM_NAMES} more"
    return text


def came_with_the_course(place: PurePosixPath) -> bool:
    """Return whether a file has the path of one of this checkout, or was written beside the work.

    That is so whatever the folder in which the checkout or the hand-out lies.
    """
    if place.name in BESIDE or place.suffix in BESIDE_SUFFIXES:
        return True
    if any(part.startswith(".") for part in place.parts):
        return True
    ends = [PurePosixPath(*place.parts[i:]) for i in range(len(place.parts))]
    return any((PACKAGE.parent / end).is_file() for end in ends if not end.is_absolute())


# Files


def is_work(place: PurePosixPath, exercises: list[Exercise]) -> bool:
    """Return whether a file may be the work on an exercise, to judge by its name."""
    if find_exercise(place.name, exercises) and not is_definition(place):
        return True
    return any(place.name == module.name for module in module_paths(exercises))


def is_definition(place: PurePosixPath) -> bool:
    """Return whether a file of a hand-out says what an exercise is; the work is elsewhere."""
    return place.parts[-3:-1] == ("tutorials", "exercises")


def find_course_folders(files: Files) -> set[PurePosixPath]:
    """Return the folders with stubs and answers of a checkout that is handed in whole.

    A folder with one of these names is a student's, if the other is not beside it.
    """
    parents = {place.parent for place, _ in files}
    ours = set()
    for parent in parents:
        beside = {other.name for other in parents if other.parent == parent.parent}
        is_course = parent.parts[-3:-1] == ("tutorials", "exercises") or beside >= COURSE_FOLDERS
        if parent.name in COURSE_FOLDERS and is_course:
            ours.add(parent)
    return ours


def list_files(exercise: Exercise, files: Files, exercises: list[Exercise]) -> list[Candidate]:
    """Return the files that are named as an exercise."""
    candidates = []
    for place, data in files:
        match = find_exercise(place.name, exercises)
        if not match or match[0] is not exercise or is_definition(place):
            continue
        kind = OTHER_NAME if match[1] else EXACT
        candidates.append(Candidate(kind, [place], data, is_unwritten(exercise, data)))
    return candidates


def is_unwritten(exercise: Exercise, data: bytes) -> bool:
    """Return whether all functions of an exercise are as in the stub, or in the hand-out."""
    placeholder = f'raise NotImplementedError("{exercise.id}")'
    return data.count(placeholder.encode()) >= len(exercise.checks)


def exact_exercise(name: str, exercises: list[Exercise]) -> Exercise | None:
    """Return the exercise whose file has this name."""
    for exercise in exercises:
        if name.lower() == f"{exercise.name}.py":
            return exercise
    return None


def find_exercise(name: str, exercises: list[Exercise]) -> tuple[Exercise, bool] | None:
    """Return the exercise to which a file belongs, and whether its name is another one.

    Browsers and learning platforms change names: "ex05_attention (1).py", "smith_ex5.py". Editors
    add ".txt", which Windows does not show.
    """
    shown = name.lower().removesuffix(".txt")
    if not shown.endswith(".py"):
        return None
    exact = exact_exercise(shown, exercises)
    if exact:
        return exact, shown != name.lower()
    match = match_number(name)
    for exercise in exercises:
        if match and exercise.number == int(match[1]):
            return exercise, True
    return None


def match_number(name: str) -> re.Match | None:
    """Return the match of "ex5", "ex05" or "exercise_5" in a name, the number as its group."""
    return re.search(r"(?<![a-z0-9])ex(?:ercise)?[ _-]?0*(\d{1,3})(?!\d)", name, re.IGNORECASE)


# Modules of the package


def module_paths(exercises: Iterable[Exercise]) -> list[PurePosixPath]:
    """Return "nanos2t/transcription/alignment.py" and so on for all functions of exercises."""
    targets = [target for exercise in exercises for target in exercise.checks]
    modules = [target.partition(":")[0].replace(".", "/") for target in targets]
    return [PurePosixPath(f"nanos2t/{module}.py") for module in dict.fromkeys(modules)]


def list_modules(exercise: Exercise, files: Files) -> list[Candidate]:
    """Return the modules with the functions of an exercise, as one candidate, if all are there."""
    kind = MODULES
    modules = {}
    places = []
    for module in module_paths([exercise]):
        matches = [item for item in files if f"/{item[0]}".endswith(f"/{module}")]
        if not matches:
            # Platforms that take single files lose the folder.
            matches = [item for item in files if item[0].name == module.name]
            kind = MODULES_ELSEWHERE
        if not matches:
            return []
        place, data = min(matches, key=lambda item: (len(item[0].parts), str(item[0])))
        modules[str(module)] = data
        places.append(place)
    text = join_modules(modules, [exercise])[exercise.id]
    return [Candidate(kind, places, text, is_unwritten(exercise, text))]


def join_modules(modules: dict[str, bytes], exercises: list[Exercise]) -> dict[str, bytes]:
    """Return for each exercise the modules, one after the other, that have its functions."""
    files = {}
    for exercise in exercises:
        paths = [str(path) for path in module_paths([exercise])]
        if all(path in modules for path in paths):
            # The grader knows the package's functions by their code, to which the line belongs.
            # With one line more, nobody is suspected who has written the same in the same place.
            texts = []
            for path in paths:
                texts.append(f"# {path}\n".encode() + modules[path].removeprefix(codecs.BOM_UTF8))
            files[exercise.id] = b"\n".join(texts)
    return files


def name_lines(text: str, data: bytes) -> str:
    """Return a sentence or a traceback about joined modules, with the lines of the modules.

    "line 298" becomes "nanos2t/decoder.py, line 297".
    """
    lines = data.split(b"\n")

    def name_line(match: re.Match) -> str:
        number = int(match[1])
        for i in reversed(range(min(number, len(lines)))):
            header = re.fullmatch(rb"# (nanos2t/[\w/]+\.py)", lines[i])
            if header:
                return f"{header[1].decode()}, line {number - i - 1}"
        return match[0]

    return LINE.sub(name_line, text)


def is_unchanged(candidate: Candidate, exercise: Exercise) -> bool:
    """Return whether modules are those of this package."""
    if candidate.kind not in (MODULES, MODULES_ELSEWHERE):
        return False
    ours = {}
    for path in module_paths([exercise]):
        ours[str(path)] = (PACKAGE.parent / path).read_bytes()
    text = join_modules(ours, [exercise])[exercise.id]
    return candidate.data.replace(b"\r\n", b"\n") == text.replace(b"\r\n", b"\n")
