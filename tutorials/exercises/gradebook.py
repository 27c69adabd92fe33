"""Points of a class, and the files that hold them: CSV, JSON, Gradescope's results.json."""

import csv
import io
import json
from dataclasses import asdict, dataclass, field

from exercises.assignment import Assignment
from exercises.exercise import Exercise
from exercises.grading import FAIL, OK, TODO, Part, Result
from exercises.private_cases import SUFFIX

# What begins a formula in a spreadsheet: names of folders and exceptions are students' words.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass
class Mark:
    """The points for one exercise, and why."""

    result: Result
    points: float
    possible: float


@dataclass
class Student:
    """What one student gets; `is_readable` is False if nothing of the submission could be read."""

    name: str
    marks: list[Mark] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_readable: bool = True
    files: dict[str, bytes] = field(default_factory=dict)  # by id of the exercise

    @property
    def points(self) -> float:
        return round(sum(mark.points for mark in self.marks), 2)

    @property
    def possible(self) -> float:
        return sum(mark.possible for mark in self.marks)


def mark_result(exercise: Exercise, result: Result, assignment: Assignment) -> Mark:
    """Return the points for a result: each verdict on a function has an equal share of them."""
    possible = assignment.points[exercise.id]
    num_parts = assignment.num_parts(exercise)
    share = sum(credit(part, assignment.partial) for part in result.parts) / num_parts
    return Mark(result, round(possible * share, 2), possible)


def credit(part: Part, partial: float) -> float:
    """Return 1 for a right function; one that is wrong has `partial` of its share of cases."""
    if part.status == OK:
        return 1.0
    if part.status == FAIL and part.num_cases:
        return partial * part.num_right / part.num_cases
    return 0.0


def format_points(points: float) -> str:
    return f"{points:.2f}".rstrip("0").rstrip(".")


# CSV


def make_csv(students: list[Student], assignment: Assignment) -> str:
    """Return a table with a line for each student, to be opened as a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    titles = [exercise.name for exercise in assignment.exercises]
    writer.writerow(["student", "points", "possible", *titles, "notes"])
    for student in students:
        points = [format_points(mark.points) for mark in student.marks]
        totals = [format_points(student.points), format_points(student.possible)]
        notes = "; ".join(student.notes)
        writer.writerow([safe_cell(student.name), *totals, *points, safe_cell(notes)])
    return text.getvalue()


def safe_cell(text: str) -> str:
    """Return text that a spreadsheet shows as it is, and does not compute."""
    return f"'{text}" if text.startswith(FORMULA) else text


# A text for the student


def make_feedback(student: Student, assignment: Assignment) -> str:
    """Return what one student is to read: points, and what is wrong."""
    total = f"{format_points(student.points)} of {format_points(student.possible)} points"
    lines = [f"{student.name}: {total}", ""]
    if student.notes:
        lines += [*student.notes, ""]
    for exercise, mark in zip(assignment.exercises, student.marks):
        points = f"{format_points(mark.points)} of {format_points(mark.possible)}"
        lines.append(f"{exercise.number} {exercise.title}: {points}")
        lines += [f"    {line}" for line in list_sentences(mark.result)]
    return "\n".join(lines) + "\n"


def list_sentences(result: Result) -> list[str]:
    """Return a verdict on each function that is not right, or that on all of the exercise."""
    wrong = [part for part in result.parts if part.status != OK]
    lines = []
    for verdict in wrong:
        # What is not written is not there for the teacher's cases either.
        if verdict.sentence not in lines:
            lines += [verdict.sentence, *verdict.detail.splitlines()]
    # What ended the process, or could not be read, is a verdict on the exercise alone.
    is_told = result.sentence in lines or (result.status == TODO and lines)
    if result.status != OK and not is_told:
        lines += [result.sentence, *result.detail.splitlines()]
    return [line for line in lines if line]


# JSON


def make_json(students: list[Student], assignment: Assignment) -> str:
    """Return all verdicts."""
    exercises = []
    for exercise in assignment.exercises:
        points = assignment.points[exercise.id]
        exercises.append({"id": exercise.id, "title": exercise.title, "points": points})
    records = [student_record(student) for student in students]
    book = {"seed": assignment.seed, "exercises": exercises, "students": records}
    return json.dumps(book, indent=2) + "\n"


def student_record(student: Student) -> dict:
    exercises = []
    for mark in student.marks:
        exercises.append(asdict(mark.result) | {"points": mark.points, "possible": mark.possible})
    return {
        "name": student.name,
        "points": student.points,
        "possible": student.possible,
        "notes": student.notes,
        "exercises": exercises,
    }


# Gradescope: gradescope-autograders.readthedocs.io/en/latest/specs


def make_results(student: Student, assignment: Assignment) -> str:
    """Return the text of a results.json: a test for each function.

    What fails in the teacher's own cases is shown only when the grades are published.
    """
    tests = []
    for exercise, mark in zip(assignment.exercises, student.marks):
        tests += exercise_tests(exercise, mark, assignment)
    results = {
        "tests": tests,
        "output": "\n".join(student.notes),
        "stdout_visibility": "hidden",
    }
    return json.dumps(results, indent=2) + "\n"


def exercise_tests(exercise: Exercise, mark: Mark, assignment: Assignment) -> list[dict]:
    """Return the tests of an exercise; one that never began counts as one test."""
    title = f"{exercise.number} {exercise.title}"
    if not mark.result.parts:
        return [make_test(title, 0.0, mark.possible, mark.result)]

    shares = split_points(mark.possible, assignment.num_parts(exercise))
    tests = []
    for part, possible in zip(mark.result.parts, shares):
        points = possible * credit(part, assignment.partial)
        test = make_test(f"{title}: {part.name}", points, possible, part)
        if part.name.endswith(SUFFIX):
            test["visibility"] = "after_published"
        tests.append(test)

    # What was not checked, because something before it did not end, still counts.
    rest = shares[len(mark.result.parts) :]
    if rest:
        tests.append(make_test(f"{title}: the rest", 0.0, sum(rest), mark.result))
    return tests


def split_points(points: float, count: int) -> list[float]:
    """Return equal shares of two digits, such as 3.33, 3.34 and 3.33: together they are all points.

    What Gradescope adds up is then what the assignment says.
    """
    ends = [round(points * i / count, 2) for i in range(count)] + [points]
    return [end - start for start, end in zip(ends, ends[1:])]


def make_test(name: str, points: float, possible: float, verdict: Part | Result) -> dict:
    lines = [verdict.sentence, verdict.detail]
    return {
        "name": name,
        "score": round(points, 4),
        "max_score": round(possible, 4),
        "status": "passed" if verdict.status == OK else "failed",
        "output": "\n".join(line for line in lines if line),
    }
