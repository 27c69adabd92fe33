"""Thirty made-up submissions: right, partly right, wrong, unfinished, broken and hostile ones."""

import shutil
import zipfile
from pathlib import Path

from exercises import folders, make
from exercises.course import EXERCISES
from exercises.exercise import Exercise

from helpers.answers import exercise_number, read_answer

NAMES = """
    Ada Alan Barbara Brian Claude Dennis Donald Edsger Emmy Frances Grace Guido Hedy Ida Joan John
    Katherine Ken Linus Margaret Mary Niklaus Radia Rosa Sophie Tim Tony Vint Wes Zuse
""".split()  # noqa: SIM905


def write_class(folder: Path) -> None:
    """Write a submission for each name: a folder, or a zip for every third."""
    for number, name in enumerate(NAMES):
        work = folder / name
        work.mkdir(parents=True)
        write_work(work, number)
        if name in SPECIAL:
            SPECIAL[name](work)
        if number % 3 == 2:
            pack(work)


def write_work(work: Path, number: int) -> None:
    """Write all exercises: some with a known mistake, some not begun, most of them right."""
    for exercise in EXERCISES:
        choice = (7 * number + 5 * exercise.number) % 11
        text = read_answer(exercise)
        if choice in (0, 1, 2) and number % 5:
            sources = list(make.wrong_sources(exercise).values())
            text = sources[number % 3 % len(sources)]
        elif choice == 3 and number % 4 == 1:
            text = exercise.path(folders.STUBS).read_text(encoding="utf-8")
        write_text(work, exercise, text)


def write_text(work: Path, exercise: Exercise, text: str) -> None:
    exercise.path(work).write_text(text, encoding="utf-8")


def pack(work: Path) -> None:
    """Replace a folder by a zip, with a folder in it as most have."""
    with zipfile.ZipFile(work.with_suffix(".zip"), "w") as archive:
        for path in sorted(work.iterdir()):
            archive.write(path, f"{work.name}/{path.name}")
    shutil.rmtree(work)


def add_line(work: Path, number: int, line: str) -> None:
    """Put a line at the beginning of the first function of an exercise."""
    exercise = exercise_number(number)
    lines = read_answer(exercise).splitlines()
    first = next(i for i, text in enumerate(lines) if text.lstrip().startswith("def "))
    while not lines[first].endswith(":"):
        first += 1
    indent = lines[first + 1][: len(lines[first + 1]) - len(lines[first + 1].lstrip())]
    lines.insert(first + 1, f"{indent}{line}")
    write_text(work, exercise, "import os\n" + "\n".join(lines) + "\n")


def loop(work: Path) -> None:
    add_line(work, 5, "while True: pass")


def eat_memory(work: Path) -> None:
    add_line(work, 4, "hog = [bytes(2**30) for _ in range(64)]")


def leave(work: Path) -> None:
    add_line(work, 1, "os._exit(0)")


def raise_exit(work: Path) -> None:
    add_line(work, 8, "exit()")


def fork(work: Path) -> None:
    add_line(work, 8, "while True: os.fork()")


def print_much(work: Path) -> None:
    add_line(work, 5, "print('here' * 100000)")


def write_results(work: Path) -> None:
    """It would give everybody no points, in the files that it can guess."""
    add_line(work, 1, f"open({str(work.parent / 'Ada' / 'ex01_normalisation.py')!r}, 'w').close()")


def lead_out(work: Path) -> None:
    """A zip with paths that lead out of it; it stays a folder with a zip in it."""
    with zipfile.ZipFile(work / "work.zip", "w") as archive:
        for exercise in EXERCISES[:3]:
            archive.writestr(f"../../Ada/{exercise.name}.py", "raise SystemExit")
        for exercise in EXERCISES[3:]:
            archive.write(exercise.path(work), f"{exercise.name}.py")
    for exercise in EXERCISES:
        exercise.path(work).unlink()


def write_utf_16(work: Path) -> None:
    exercise = exercise_number(1)
    exercise.path(work).write_bytes(read_answer(exercise).encode("utf-16"))


def leave_out_files(work: Path) -> None:
    for exercise in EXERCISES[5:]:
        exercise.path(work).unlink()


def empty(work: Path) -> None:
    for path in work.iterdir():
        path.unlink()
    (work / "notes.txt").write_text("I was ill.", encoding="utf-8")


def rename(work: Path) -> None:
    """As a browser does when it saves a file twice."""
    path = exercise_number(5).path(work)
    path.rename(work / "ex05_attention (1).py")


def link(work: Path) -> None:
    path = exercise_number(1).path(work)
    path.unlink()
    path.symlink_to(work.parent / "Ada" / path.name)


SPECIAL = {
    "Alan": loop,
    "Brian": eat_memory,
    "Claude": leave,
    "Donald": raise_exit,
    "Edsger": fork,
    "Frances": print_much,
    "Guido": write_results,
    "Ida": lead_out,
    "John": write_utf_16,
    "Ken": leave_out_files,
    "Margaret": empty,
    "Niklaus": rename,
    "Radia": link,
}
