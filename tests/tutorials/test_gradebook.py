# pytest tests/tutorials/test_gradebook.py
"""Points, the files that hold them, the page about a class, and a teacher's file."""

import csv
import io
import json
import re
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import pytest
from exercises.assignment import Assignment, read_assignment
from exercises.class_page import make_page
from exercises.class_summary import MIN_LENGTH, count_mistakes, find_same_code
from exercises.course import EXERCISES
from exercises.gradebook import (
    Student,
    make_csv,
    make_feedback,
    make_json,
    make_results,
    mark_result,
    split_points,
)
from exercises.grading import FAIL, OK, TODO, Part, Result
from exercises.private_cases import SUFFIX, try_cases

ROOT = Path(__file__).parents[2]
HALF = Part("unfuse", FAIL, "unfuse: not transposed (line 4)", num_right=3, num_cases=4)
RIGHT = Part("import_state", OK, num_right=9, num_cases=9)


def make_result(*parts: Part, status: str = FAIL, sentence: str = "") -> Result:
    exercise = EXERCISES[13]
    if parts and not sentence:
        sentence = parts[0].sentence
    return Result(exercise.id, exercise.title, status, sentence, parts=list(parts))


def make_student(name: str, result: Result, assignment: Assignment, *notes: str) -> Student:
    return Student(name, [mark_result(EXERCISES[13], result, assignment)], list(notes))


@pytest.fixture
def assignment() -> Assignment:
    return Assignment({"ex14": 20}, partial=0.5, seed=7)


def test_points_by_function_and_case(assignment):
    def points(*parts: Part, **more) -> float:
        return mark_result(EXERCISES[13], make_result(*parts, **more), assignment).points

    assert points(RIGHT, RIGHT, status=OK) == 20
    assert points(HALF, RIGHT) == 10 + 10 * 0.5 * 0.75
    assert points(Part("unfuse", TODO), RIGHT, status=TODO) == 10
    # What comes after a function that does not end is not checked.
    assert points(RIGHT) == 10
    assert points() == 0

    private = Assignment({"ex14": 20}, cases={"remap:unfuse": print})
    result = make_result(RIGHT, RIGHT, Part("unfuse" + SUFFIX, FAIL, num_cases=2))
    assert mark_result(EXERCISES[13], result, private).points == pytest.approx(13.33)


def test_a_table_for_spreadsheets(assignment):
    students = [
        make_student('=HYPERLINK("x")', make_result(HALF, RIGHT), assignment, "@note, one", "two"),
        make_student("Bob, Jr.", make_result(), assignment),
    ]
    [first, second] = csv.DictReader(io.StringIO(make_csv(students, assignment)))
    assert first == {
        "student": '\'=HYPERLINK("x")',
        "points": "13.75",
        "possible": "20",
        "ex14_weight_map": "13.75",
        "notes": "'@note, one; two",
    }
    assert (second["student"], second["points"]) == ("Bob, Jr.", "0")


def test_all_verdicts_as_json(assignment):
    student = make_student("Ada", make_result(HALF, RIGHT), assignment)
    book = json.loads(make_json([student], assignment))
    assert book["seed"] == 7
    assert book["exercises"] == [{"id": "ex14", "title": EXERCISES[13].title, "points": 20}]
    [exercise] = book["students"][0]["exercises"]
    assert (exercise["points"], exercise["possible"], exercise["status"]) == (13.75, 20, FAIL)
    assert exercise["parts"][0]["num_right"] == 3


def test_results_for_gradescope(assignment):
    student = make_student("Ada", make_result(HALF, RIGHT), assignment, "a note")
    results = json.loads(make_results(student, assignment))
    assert results["output"] == "a note"
    tests = results["tests"]
    assert [test["score"] for test in tests] == [3.75, 10]
    assert [test["max_score"] for test in tests] == [10, 10]
    assert [test["status"] for test in tests] == ["failed", "passed"]
    assert tests[0]["output"] == HALF.sentence and "visibility" not in tests[0]

    # All tests together always have all points: those of a file that is not there, too.
    for result in make_result(), make_result(RIGHT):
        tests = json.loads(make_results(make_student("Ada", result, assignment), assignment))
        assert sum(test["max_score"] for test in tests["tests"]) == 20
    private = Assignment({"ex14": 20}, cases={"remap:unfuse": print})
    result = make_result(RIGHT, RIGHT, Part("unfuse" + SUFFIX, FAIL, "secret", num_cases=2))
    tests = json.loads(make_results(make_student("Ada", result, private), private))["tests"]
    assert [test.get("visibility") for test in tests] == [None, None, "after_published"]
    assert round(sum(test["max_score"] for test in tests), 6) == 20
    assert round(sum(test["score"] for test in tests[:2]), 2) == 13.33


@pytest.mark.parametrize(("points", "count"), [(20, 3), (30, 7), (0.01, 3), (12.5, 4), (0, 2)])
def test_shares_are_equal_and_all_points_together(points, count):
    shares = split_points(points, count)
    assert len(shares) == count and round(sum(shares), 9) == points
    assert max(shares) - min(shares) < 0.011
    assert all(round(share, 2) == pytest.approx(share, abs=1e-9) for share in shares[:-1])


def test_a_text_for_each_student(assignment):
    """Each verdict that is not right is told once, with the lines of its detail."""
    wrong = Part("unfuse", FAIL, "unfuse: not transposed", "x = y.t()\nprinted: 3", 3, 4)
    second = Part("import_state", FAIL, "import_state: a name is missing", num_cases=9)
    result = make_result(wrong, second)
    student = make_student("Émile", result, assignment, "not read: a.rar")
    title = f"14 {EXERCISES[13].title}"
    assert make_feedback(student, assignment).splitlines() == [
        "Émile: 3.75 of 20 points",
        "",
        "not read: a.rar",
        "",
        f"{title}: 3.75 of 20",
        "    unfuse: not transposed",
        "    x = y.t()",
        "    printed: 3",
        "    import_state: a name is missing",
    ]
    result = make_result(RIGHT, sentence="it took longer than 10 s")
    lines = make_feedback(make_student("Ada", result, assignment), assignment).splitlines()
    assert lines[2:] == [f"{title}: 10 of 20", "    it took longer than 10 s"]
    # What is not written is told once, though the teacher has cases for it.
    unwritten = Part("unfuse", TODO, "write unfuse")
    private = Part("unfuse" + SUFFIX, TODO, "write unfuse")
    result = make_result(unwritten, RIGHT, private, status=TODO, sentence="write unfuse; 1 of 3")
    lines = make_feedback(make_student("Ada", result, assignment), assignment).splitlines()
    assert lines[3:] == ["    write unfuse"]
    result = make_result(RIGHT, RIGHT, status=OK)
    lines = make_feedback(make_student("Ada", result, assignment), assignment).splitlines()
    assert lines == ["Ada: 20 of 20 points", "", f"{title}: 20 of 20"]


def test_the_same_code_is_told():
    """Spaces and comments make no difference; short answers, and what is not written, do."""
    assignment = Assignment({exercise.id: 10 for exercise in EXERCISES})

    def hand_in(name: str, code: str, status: str = FAIL) -> Student:
        student = Student(name)
        for exercise in EXERCISES[:4]:
            result = Result(exercise.id, exercise.title, status, "")
            student.marks.append(mark_result(exercise, result, assignment))
            student.files[exercise.id] = f"{code}  # {name}\n".encode()
        return student

    code = "x = 1\n" * (MIN_LENGTH // 8)
    students = [
        hand_in("wang", code),
        hand_in("xu", code.replace(" ", "  ")),
        hand_in("yu", code.replace("x", "y")),
        hand_in("zuse", "x = 1"),
        hand_in("ada", "x = 1"),
        hand_in("emmy", code, TODO),
        hand_in("ida", code, TODO),
    ]
    assert find_same_code(students) == [(["wang", "xu"], [1, 2, 3, 4])]
    students[1].files["ex02"] = b"x = 3"
    assert find_same_code(students) == [(["wang", "xu"], [1, 3, 4])]
    assert "<li>wang; xu: the same code in 1, 3, 4</li>" in make_page(
        [student for student in students if len(student.marks)], Assignment({"ex01": 10})
    )


def test_one_function_that_was_copied_is_told():
    """Whatever stands around it: comments, docstrings, the rest of a module."""
    assignment = Assignment({"ex08": 10})
    lines = "".join(f"    x{i} = T + {i} * past\n" for i in range(60))
    code = f"def causal_mask(T, past, device):\n{lines}    return x1\n"
    texts = {
        "quinn": code,
        "rossi": "import torch  # mine\n\n"
        + code.replace("):", "):\n    'My own words.'\n    # go"),
        "silva": code.replace("x1", "y1"),
        # The task and all else is the course's.
        "tanaka": '"""' + "The task. " * 300 + f'"""\n{code[:36]}    return T\n',
        "ueda": '"""' + "The task. " * 300 + f'"""\n{code[:36]}    return T\n',
    }
    students = []
    for name, text in texts.items():
        student = Student(name, files={"ex08": text.encode()})
        result = Result("ex08", "causal mask", FAIL, "")
        student.marks.append(mark_result(EXERCISES[7], result, assignment))
        students.append(student)
    assert find_same_code(students) == [(["quinn", "rossi"], [8])]


# The page


class Tags(HTMLParser):
    """Notes the tags of a page that are open, and its text."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "img")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_of_a_class(assignment):
    other = make_result(Part("unfuse", FAIL, "unfuse: not transposed (line 9)", num_cases=4))
    students = [
        make_student("<script>alert(1)</script>", make_result(HALF, RIGHT), assignment),
        make_student("Bob & Co", other, assignment, "<b>"),
        make_student("Claude", make_result(RIGHT, RIGHT, status=OK), assignment),
    ]
    students[1].is_readable = False
    [mistake] = count_mistakes(students)
    assert (mistake.sentence, len(mistake.names)) == ("unfuse: not transposed", 2)

    page = make_page(students, assignment)
    assert "http" not in page
    tags = Tags()
    tags.feed(page.removeprefix("<!doctype html>"))
    assert tags.open == []
    assert "<script>alert(1)</script>; Bob & Co" in tags.text
    assert "3 students; of 20 points on average 11.2, median 13.75, from 0 to 20." in tags.text
    assert "Bob & Co: <b>" in tags.text  # its note
    assert "1 without anything to grade count with 0 points" in tags.text
    assert "unfuse: not transposed (line 9)" in tags.text and "Seed 7" in tags.text


# A teacher's file


def write(tmp_path, text: str):
    path = tmp_path / "homework.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_teachers_file(tmp_path):
    text = """
POINTS = {5: 12.5, "ex01": 3}
PARTIAL = 0
SEED = 3
MY_SHAPE = (2, 3)

def check_one(function, draw):
    yield "one", function(draw(1, *MY_SHAPE))

CASES = {"wav2vec2:attend": check_one}
"""
    assignment = read_assignment(write(tmp_path, text))
    assert assignment.points == {"ex05": 12.5, "ex01": 3}
    assert [exercise.number for exercise in assignment.exercises] == [1, 5]
    assert (assignment.partial, assignment.seed) == (0, 3)
    assert assignment.num_parts(EXERCISES[4]) == len(EXERCISES[4].checks) + 1
    assert read_assignment(None).points == {exercise.id: 10 for exercise in EXERCISES}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("POINTS = {99: 1}", "expected an exercise"),
        ("POINTS = {1: -1}", "1 has -1"),
        ("POINTS = {1: True}", "expected a number"),
        ("POINTS = {1: 2, 'ex01': 3}", "twice"),
        ("POINTS = [1, 2]", "expected a dict"),
        ("POINT = {1: 2}", "POINT is none of CASES, PARTIAL, POINTS, SEED"),
        ("PARTIAL = 2", "PARTIAL is 2, expected a number from 0 to 1"),
        ("SEED = 'x'", "SEED is 'x'"),
        ("SEED = 0", "SEED is 0, expected a whole number from 1"),
        ("CASES = {'attend': print}", "'attend' is none of"),
        ("CASES = {'wav2vec2:attend': 3}", "expected a function"),
        (
            "POINTS = {1: 5}\nCASES = {'wav2vec2:attend': print}",
            "wav2vec2:attend: its exercise has no points in POINTS",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero \\(line 1\\)"),
        ("import sys\nsys.exit()", r"it ends Python: take out exit\(\) \(line 2\)"),
        ("def", "SyntaxError"),
    ],
)
def test_what_a_teachers_file_may_not_have(text, message, tmp_path):
    with pytest.raises(ValueError, match=message) as problem:
        read_assignment(write(tmp_path, text))
    assert "homework.py" in str(problem.value) and "\n" not in str(problem.value)
    with pytest.raises(ValueError, match="expected a Python file"):
        read_assignment(tmp_path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("yield 'one', len(None)", "TypeError"),
        ("return iter(())", "no case"),
        ("yield 'one', draw(1, 2)", "does not call the function"),
        ("yield 'one', function(torch.rand(9))", "'one' has another result each time: use draw"),
        ("yield torch.rand(1).item(), function(torch.ones(9))", "another result each time"),
    ],
)
def test_cases_that_cannot_be_run_are_told_before_anybody_is_graded(body, message, tmp_path):
    text = f"import torch\ndef check(function, draw):\n    {body}\n"
    path = write(tmp_path, text + "CASES = {'audio:normalise': check}")
    with pytest.raises(ValueError, match=f"CASES: audio:normalise: .*{message}"):
        try_cases(read_assignment(path))


def test_a_slip_in_a_case_is_told(tmp_path):
    """The package raises: so does each student's function, and all would have all points."""
    text = """
def check(function, draw):
    yield "silence", function([0.0], eps="x")
    yield "too many", function([0.0], 1, 2)
    yield "right", function(draw(1, 9))
CASES = {"audio:normalise": check}
"""
    first, second = try_cases(read_assignment(write(tmp_path, text)))
    assert first.startswith("CASES: audio:normalise: 'silence': the package itself raises ")
    assert "'too many': the package itself raises TypeError" in second
    assert first.endswith(": is that meant?")


@pytest.mark.parametrize("page", ["teaching.md", "exercises/README.md"])
def test_the_teachers_files_that_the_guides_show(page, tmp_path):
    guide = (ROOT / "tutorials" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```py(?:thon)?\n(.*?)```", guide, re.DOTALL)
    [text] = [textwrap.dedent(block) for block in blocks if "POINTS" in block]
    assignment = read_assignment(write(tmp_path, text))
    assert assignment.cases and assignment.points != read_assignment(None).points
    assert try_cases(assignment) == []
