"""`nanos2t exercises grade FOLDER`: grade a class, and write tables and a page about it."""

import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from exercises import folders
from exercises.assignment import Assignment, read_assignment
from exercises.class_folder import Class, find_submissions
from exercises.class_page import make_page
from exercises.class_summary import count_mistakes, find_same_code
from exercises.drawn_cases import new_seed
from exercises.exercise import Exercise
from exercises.gradebook import (
    Student,
    format_points,
    make_csv,
    make_feedback,
    make_json,
    make_results,
    mark_result,
)
from exercises.grading import TODO, Result
from exercises.private_cases import try_cases
from exercises.processes import Limits, grade_exercises
from exercises.submissions import name_lines, read_submission
from nanos2t.cli.console import log_stderr
from nanos2t.files import write_text

Write = Callable[[str], None]
COLUMN = 5  # characters of a column of points
NUM_MISTAKES = 5  # that the terminal shows
FOLDERS = ("gradescope", "feedback")  # with a file for each student
BYTE_ORDER_MARK = "\ufeff"  # without it Excel takes a table for one of another encoding


@dataclass(frozen=True)
class Order:
    """What a teacher asks for on the command line."""

    folder: Path
    assignment: Path | None = None
    output: Path | None = None
    gradescope: Path | None = None
    jobs: int = 1
    seconds: float = 10
    megabytes: int = 2000
    as_json: bool = False


def grade_class(order: Order, write: Write) -> int:
    """Grade a class; return 0, or 1 if something of a submission could not be read.

    ValueError: there is nothing to grade, or the assignment is wrong.
    """
    start = time.monotonic()
    assignment = read_assignment(order.assignment)
    if assignment.seed is None:
        assignment = replace(assignment, seed=new_seed())
    work = find_work(order)
    prepare_output(order)
    for warning in try_cases(assignment):
        log_stderr(warning)

    students = []
    width = max(7, *(len(name) for name in work.students))
    if not order.as_json:
        write(format_header(assignment, width))
    try:
        for student in grade_students(work.students, assignment, order):
            students.append(student)
            if not order.as_json:
                write(format_student(student, width))
    finally:
        # What is finished is kept, also after Ctrl-C.
        names = write_files(students, assignment, order) if students else []

    if order.as_json:
        write(make_json(students, assignment))
    else:
        write(format_end(students, time.monotonic() - start))
        write("".join(f"Not graded: {clean(name)}\n" for name in work.passed_over))
        write(f"Seed {assignment.seed}: as SEED in the assignment it gives the same inputs\n")
        write("".join(f"Written: {name}\n" for name in names))
    return 0 if all(student.is_readable for student in students) else 1


def prepare_output(order: Order) -> None:
    """Make the folder of the grades. ValueError: they cannot be written there."""
    if order.gradescope and order.gradescope.is_dir():
        raise ValueError(f"--gradescope: {order.gradescope} is a folder, expected a file")
    if not order.output:
        return
    if order.output.resolve().is_relative_to(order.folder.resolve()):
        raise ValueError(f"--output: {order.output} is in the folder of the submissions")
    try:
        order.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output: {order.output}: {error.strerror}") from None


def find_work(order: Order) -> Class:
    """Return the work of the class. What Gradescope has unpacked is always of one student."""
    if not order.gradescope:
        return find_submissions(order.folder, order.assignment)
    if not order.folder.exists():
        raise ValueError(f"{order.folder}: expected a folder with a submission, found none")
    return Class({order.folder.resolve().name: [order.folder]})


def grade_students(
    students: dict[str, list[Path]], assignment: Assignment, order: Order
) -> Iterator[Student]:
    """Yield the grades in the order of the names, `jobs` students at a time."""
    stop = threading.Event()
    executor = ThreadPoolExecutor(order.jobs)

    def grade(item: tuple[str, list[Path]]) -> Student:
        return grade_student(*item, assignment, order, stop)

    try:
        yield from executor.map(grade, students.items())
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)


def grade_student(
    name: str, paths: list[Path], assignment: Assignment, order: Order, stop: threading.Event
) -> Student:
    """Return what a student gets. The work runs in processes of its own."""
    exercises = assignment.exercises
    submission = read_submission(name, paths, exercises)
    files = submission.files
    student = Student(name, notes=submission.notes, is_readable=bool(files), files=files)
    present = [exercise for exercise in exercises if exercise.id in files]
    results = {}
    with tempfile.TemporaryDirectory(prefix="nanos2t-") as temporary:
        work = Path(temporary).resolve()
        for exercise in present:
            exercise.path(work).write_bytes(files[exercise.id])
        for result in grade_exercises(present, work, make_limits(order, assignment), stop):
            results[result.id] = result

    for exercise in exercises:
        result = results.get(exercise.id) or missing_result(exercise)
        if exercise.id in submission.from_modules:
            # Lines are counted in several modules that were joined.
            for verdict in (result, *result.parts):
                verdict.sentence = name_lines(verdict.sentence, files[exercise.id])
                verdict.detail = name_lines(verdict.detail, files[exercise.id])
        student.marks.append(mark_result(exercise, result, assignment))
    return student


def missing_result(exercise: Exercise) -> Result:
    return Result(exercise.id, exercise.title, TODO, f"there is no {exercise.name}.py")


def make_limits(order: Order, assignment: Assignment) -> Limits:
    """Return the limits of a student's code, which may not read the others' or the answers."""
    private = [order.folder, folders.ANSWERS, folders.KEYS, folders.MISTAKES, folders.WORK]
    private += [path for path in (order.assignment, order.output) if path]
    paths = tuple(str(path.resolve()) for path in private)
    path = ""
    if order.assignment:
        path = str(order.assignment.resolve())
    return Limits(order.seconds, order.megabytes, paths, path, assignment.seed)


# What is written


def format_header(assignment: Assignment, width: int) -> str:
    numbers = "".join(f"{exercise.number:>{COLUMN}}" for exercise in assignment.exercises)
    return f"{'student':<{width}}{numbers}{'points':>9}\n"


def format_student(student: Student, width: int) -> str:
    """Return a line of points; "." for an exercise that is not there or not written."""
    cells = []
    for mark in student.marks:
        is_absent = mark.result.status == TODO and not mark.points
        points = format_points(round(mark.points, 1))
        if is_absent:
            points = "."
        cells.append(points)
    columns = "".join(f"{cell:>{COLUMN}}" for cell in cells)
    notes = "".join(f"    {note}\n" for note in student.notes)
    name = clean(student.name)
    return f"{name:<{width}}{columns}{format_points(student.points):>9}\n{clean(notes)}"


def clean(text: str) -> str:
    """Return text without the characters that a terminal would obey."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", "?", text)


def format_end(students: list[Student], seconds: float) -> str:
    """Return the mean and the most frequent mistakes."""
    mean = sum(student.points for student in students) / len(students)
    possible = format_points(students[0].possible)
    text = f"\n{len(students)} graded in {seconds:.0f} s, on average {mean:.1f} of {possible}\n"
    mistakes = count_mistakes(students)[:NUM_MISTAKES]
    if mistakes:
        text += "The most frequent mistakes:\n"
    for mistake in mistakes:
        text += clean(f"{len(mistake.names):>4}  {mistake.number:>2} {mistake.sentence}") + "\n"
    for names, numbers in find_same_code(students):
        text += clean(f"The same code in {', '.join(map(str, numbers))}: {'; '.join(names)}") + "\n"
    return text


def write_files(students: list[Student], assignment: Assignment, order: Order) -> list[str]:
    """Write what was asked for, each file whole or not at all, and return the names."""
    texts = {}
    if order.output:
        texts[order.output / "grades.csv"] = BYTE_ORDER_MARK + make_csv(students, assignment)
        texts[order.output / "grades.json"] = make_json(students, assignment)
        texts[order.output / "class.html"] = make_page(students, assignment)
        for student in students:
            path = order.output / "gradescope" / f"{student.name}.json"
            texts[path] = make_results(student, assignment)
            path = order.output / "feedback" / f"{student.name}.txt"
            texts[path] = make_feedback(student, assignment)
    if order.gradescope:
        texts[order.gradescope] = make_results(students[0], assignment)

    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    # These files are as many as the students: only their folders are named.
    names = [path.parent if path.parent.name in FOLDERS else path for path in texts]
    return [str(path) for path in dict.fromkeys(names)]
