"""A page about a class: its mistakes, exercises and students. One file, without scripts."""

from html import escape

from exercises.assignment import Assignment
from exercises.class_summary import Mistake, count_mistakes, find_same_code
from exercises.gradebook import Mark, Student, format_points
from exercises.grading import OK, TODO

STYLE = """
:root { color-scheme: light dark; --line: #8885; --bar: #4a7ebb; --good: #2e9e5b; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
.wide { overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .5rem; text-align: left; }
th { font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.bar { background: var(--bar); height: .7rem; min-width: 1px; border-radius: 2px; }
.share { min-width: 8rem; width: 8rem; }
.names { color: GrayText; font-size: .85rem; }
details { margin: .2rem 0; }
li { margin: .2rem 0; }
pre { margin: .2rem 0; white-space: pre-wrap; font-size: .8rem; }
@media print { details > * { display: block; } }
"""


def make_page(students: list[Student], assignment: Assignment) -> str:
    """Return the HTML of the page."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>The class</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body>",
        "<h1>The class</h1>",
        f"<p>{describe_class(students, assignment)}</p>",
        "<h2>Exercises</h2>",
        exercises_table(students, assignment),
        "<h2>Mistakes</h2>",
        mistakes_table(count_mistakes(students), len(students)),
        "<h2>To look at</h2>",
        look_list(students),
        "<h2>Students</h2>",
        students_table(students, assignment),
        *(student_details(student) for student in students),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def describe_class(students: list[Student], assignment: Assignment) -> str:
    totals = sorted(student.points for student in students)
    middle = len(totals) // 2
    median = (totals[middle] + totals[-middle - 1]) / 2
    mean = sum(totals) / len(totals)
    possible = format_points(students[0].possible)
    text = f"{len(students)} students; of {possible} points on average {mean:.1f}, "
    text += f"median {format_points(median)}, from {format_points(totals[0])} "
    text += f"to {format_points(totals[-1])}."
    num_empty = sum(not student.is_readable for student in students)
    if num_empty:
        text += f" {num_empty} without anything to grade count with 0 points, and as not written."
    if assignment.seed is not None:
        text += f" Seed {assignment.seed}."
    return text


def make_table(titles: list[str], rows: list[str]) -> str:
    """Return a table; a title with a leading # is that of numbers."""
    cells = []
    for title in titles:
        style = ' class="number"' if title.startswith("#") else ""
        cells.append(f"<th{style}>{escape(title.removeprefix('#'))}</th>")
    lines = [f"<tr>{''.join(cells)}</tr>", *(f"<tr>{row}</tr>" for row in rows)]
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def number_cell(text: object, style: str = "") -> str:
    attribute = f' style="{style}"' if style else ""
    return f'<td class="number"{attribute}>{escape(str(text))}</td>'


def bar_cell(share: float) -> str:
    return f'<td class="share"><div class="bar" style="width: {100 * share:.0f}%"></div></td>'


def mistakes_table(mistakes: list[Mistake], num_students: int) -> str:
    """Return who made which mistake, the most frequent first."""
    if not mistakes:
        return "<p>Nobody made one.</p>"
    rows = []
    for mistake in mistakes:
        names = escape("; ".join(mistake.names))
        rows.append(
            number_cell(len(mistake.names))
            + bar_cell(len(mistake.names) / num_students)
            + number_cell(mistake.number)
            + f'<td>{escape(mistake.sentence)}<div class="names">{names}</div></td>'
        )
    return make_table(["#students", "", "#exercise", "mistake"], rows)


def exercises_table(students: list[Student], assignment: Assignment) -> str:
    """Return how many have solved each exercise, and how many have not begun."""
    rows = []
    for i, exercise in enumerate(assignment.exercises):
        marks = [student.marks[i] for student in students]
        num_right = sum(mark.result.status == OK for mark in marks)
        num_unwritten = sum(mark.result.status == TODO for mark in marks)
        mean = sum(mark.points for mark in marks) / len(marks)
        rows.append(
            number_cell(exercise.number)
            + f"<td>{escape(exercise.title)}</td>"
            + number_cell(num_right)
            + bar_cell(num_right / len(marks))
            + number_cell(len(marks) - num_right - num_unwritten)
            + number_cell(num_unwritten)
            + number_cell(f"{mean:.1f} of {format_points(assignment.points[exercise.id])}")
        )
    titles = ["#", "exercise", "#right", "", "#wrong", "#not written", "#points on average"]
    return make_table(titles, rows)


def look_list(students: list[Student]) -> str:
    """Return what a teacher may want to look at: notes, and work that several have handed in."""
    lines = []
    for names, numbers in find_same_code(students):
        exercises = ", ".join(map(str, numbers))
        lines.append(f"{'; '.join(names)}: the same code in {exercises}")
    for student in students:
        lines += [f"{student.name}: {note}" for note in student.notes]
    if not lines:
        return "<p>Nothing.</p>"
    return "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"


def students_table(students: list[Student], assignment: Assignment) -> str:
    """Return the points of all students, the greener the more."""
    rows = []
    for student in students:
        cells = [f"<td>{escape(student.name)}</td>"]
        cells += [mark_cell(mark) for mark in student.marks]
        cells.append(number_cell(format_points(student.points)))
        rows.append("".join(cells))
    numbers = [f"#{exercise.number}" for exercise in assignment.exercises]
    return make_table(["student", *numbers, "#points"], rows)


def mark_cell(mark: Mark) -> str:
    share = mark.points / mark.possible if mark.possible else 0.0
    color = f"color-mix(in srgb, var(--good) {60 * share:.0f}%, transparent)"
    text = "" if mark.result.status == TODO and not share else format_points(round(mark.points, 1))
    return number_cell(text, f"background: {color}")


def student_details(student: Student) -> str:
    """Return what the grader said to one student, folded."""
    lines = [f"<li>{escape(note)}</li>" for note in student.notes]
    for mark in student.marks:
        if mark.result.status == OK:
            continue
        number = int(mark.result.id[2:])
        line = f"<li>{number}: {escape(mark.result.sentence)}"
        if mark.result.detail:
            line += f"<pre>{escape(mark.result.detail)}</pre>"
        lines.append(line + "</li>")
    summary = f"{escape(student.name)}, {format_points(student.points)}"
    body = "\n".join(lines) or "<li>All right.</li>"
    return f"<details><summary>{summary}</summary><ul>\n{body}\n</ul></details>"
