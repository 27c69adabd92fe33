# pytest tests/tutorials/test_grade_class.py
"""`nanos2t exercises grade`: a class from submissions to files, and a class of thirty."""

import codecs
import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from exercises import folders
from exercises.course import EXERCISES
from exercises.grading import OK
from exercises.processes import Limits, grade_exercises
from helpers.answers import exercise_number, read_answer
from helpers.students import NAMES, SPECIAL, add_line, write_class

from nanos2t.cli import main as cli

ROOT = Path(__file__).parents[2]

HOMEWORK = """
POINTS = {1: 4, 8: 6}

def check_two(function, draw):
    import torch
    yield "two new tokens", function(2, 0, torch.device("cpu"))

CASES = {"decoder:causal_mask": check_two}
"""


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `nanos2t exercises grade` in the checkout -> exit code, stdout, stderr."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(["exercises", "grade", *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return run


def write_work(folder: Path, name: str, *numbers: int) -> Path:
    """A folder with second right answers."""
    work = folder / name
    work.mkdir(parents=True)
    for number in numbers:
        exercise = exercise_number(number)
        exercise.path(work).write_text(read_answer(exercise), encoding="utf-8")
    return work


def test_what_cannot_be_written_is_told_before_the_class_is_graded(run, tmp_path):
    submissions = tmp_path / "submissions"
    write_work(submissions, "Ada", 8)
    file = tmp_path / "grades"
    file.write_text("mine", encoding="utf-8")
    for option, path, reason in (
        ("--output", file, "File exists"),
        ("--output", file / "below", "Not a directory"),
        ("--output", submissions / "grades", "in the folder of the submissions"),
        ("--gradescope", tmp_path, "is a folder, expected a file"),
    ):
        code, out, err = run(submissions, option, path)
        assert (code, out) == (2, ""), option
        assert f"{option}: {path}" in err and reason in err and err.count("\n") == 1
    assert file.read_text(encoding="utf-8") == "mine" and len(list(submissions.iterdir())) == 1


def test_a_small_class(run, tmp_path):
    """A student who knew the public cases by heart, one who ends Python, one who is right."""
    submissions = tmp_path / "submissions"
    write_work(submissions, "Ada", 1, 8)
    add_line(write_work(submissions, "Bob", 1, 8), 1, "os._exit(0)")
    by_heart = "if (T, past_length) == (2, 0): return torch.ones(2, 2)"
    add_line(write_work(submissions, "Carl", 8), 8, by_heart.replace("past_length", "past"))
    homework = tmp_path / "homework.py"
    homework.write_text(HOMEWORK, encoding="utf-8")
    output = tmp_path / "grades"

    code, out, err = run(submissions, "--assignment", homework, "--output", output, "--jobs", 2)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()[:4]]
    assert lines == [
        ["student", "1", "8", "points"],
        ["Ada", "4", "6", "10"],
        ["Bob", "0", "6", "6"],
        ["Carl", ".", "3", "3"],
    ]
    assert "it ended Python" in out and "3 graded in" in out
    written = {path.relative_to(output).as_posix() for path in output.rglob("*.*")}
    assert written == {"grades.csv", "grades.json", "class.html"} | {
        file
        for name in ("Ada", "Bob", "Carl")
        for file in (f"gradescope/{name}.json", f"feedback/{name}.txt")
    }
    feedback = (output / "feedback" / "Carl.txt").read_text(encoding="utf-8")
    assert feedback.startswith("Carl: 3 of 10 points\n") and "there is no ex01" in feedback
    # The mark at the beginning tells Excel that it is UTF-8.
    assert (output / "grades.csv").read_bytes().startswith(codecs.BOM_UTF8)
    with (output / "grades.csv").open(encoding="utf-8-sig") as file:
        assert [row["points"] for row in csv.DictReader(file)] == ["10", "6", "3"]


def test_answers_that_were_learned_by_heart_are_wrong_for_other_numbers(run, tmp_path):
    """Whoever returns the stored answers is right in public, and has few points."""
    work = write_work(tmp_path / "class", "Ada", 4)
    write_work(tmp_path / "class", "Bob", 4)
    key = json.loads(folders.read_key_text("ex04"))["wav2vec2:position_conv"][""]
    answers = [list(case.values())[0] for case in key.values()]
    text = f"import torch\nanswers = iter(2 * {answers})\n"
    text += "def position_conv(*arguments):\n    return torch.tensor(next(answers)).double()\n"
    exercise_number(4).path(work).write_text(text, encoding="utf-8")
    [public] = grade_exercises([exercise_number(4)], work, Limits(seed=0))
    assert public.status == OK
    homework = tmp_path / "homework.py"
    homework.write_text("POINTS = {4: 10}\nSEED = 12", encoding="utf-8")
    code, out, _ = run(tmp_path / "class", "--assignment", homework, "--jobs", 2)
    lines = [line.split() for line in out.splitlines()]
    assert ["Bob", "10", "10"] in lines and ["Ada", "0", "0"] in lines
    assert (
        "right for the public numbers, wrong for others (--seed 12): " in out and "Seed 12" in out
    )


def test_one_submission_for_gradescope(run, tmp_path):
    """It has the files itself; the results are ours, whatever it has written there before."""
    work = write_work(tmp_path, "submission", 8)
    results = tmp_path / "results" / "results.json"
    results.parent.mkdir()
    results.write_text('{"score": 1000}', encoding="utf-8")
    homework = tmp_path / "homework.py"
    homework.write_text("POINTS = {1: 4, 8: 6}", encoding="utf-8")

    code, out, _ = run(work, "--assignment", homework, "--gradescope", results, "--json")
    assert code == 0 and json.loads(out)["students"][0]["points"] == 6
    tests = json.loads(results.read_text(encoding="utf-8"))["tests"]
    assert [(test["score"], test["max_score"]) for test in tests] == [(0, 4), (6, 6)]


def test_gradescope_has_results_whatever_was_handed_in(run, tmp_path):
    """Other names, folders, a broken zip: the student is told, and nobody that a run failed."""
    homework = tmp_path / "homework.py"
    homework.write_text("POINTS = {1: 4, 8: 6}", encoding="utf-8")
    results = tmp_path / "results.json"
    for number, name in enumerate(["normalise.py", "src/my.ipynb", "Ada.zip", "Bob.rar", ""]):
        folder = tmp_path / f"submission{number}"
        folder.mkdir()
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("?", encoding="utf-8")
        options = ("--assignment", homework, "--gradescope", results)
        assert run(folder, *options)[0] == 1
        book = json.loads(results.read_text(encoding="utf-8"))
        results.unlink()
        assert [test["max_score"] for test in book["tests"]] == [4, 6]
        reason = f"not read: {name}" if number != 2 else "Ada.zip cannot be read as a zip"
        assert (reason if name else "it has no file of an exercise") in book["output"]
    code, _, err = run(tmp_path / "nothing", *options)
    assert code == 2 and "expected a folder with a submission" in err


def test_what_is_no_folder_and_no_zip_has_a_line(run, tmp_path):
    """Nobody is lost, and the exit code says that something was not read."""
    for name in "dora.rar", "Émile.pdf", "petrov.7z", "points.csv":
        (tmp_path / name).write_text("?", encoding="utf-8")
    code, out, err = run(tmp_path, "--output", tmp_path.with_name("grades"))
    assert (code, err) == (1, "") and "3 graded" in out and "Not graded: points.csv" in out
    for name, file in ("dora", "dora.rar"), ("Émile", "Émile.pdf"), ("petrov", "petrov.7z"):
        [place] = [i for i, line in enumerate(out.splitlines()) if line.startswith(name)]
        assert out.splitlines()[place].split()[-1] == "0"
        assert f"not read: {file}" in out.splitlines()[place + 2]


def test_usage(run, tmp_path):
    write_work(tmp_path / "class", "Ada", 1)
    write_work(tmp_path / "class", "Bob", 1)
    homework = tmp_path / "homework.py"
    homework.write_text("POINTS = {0: 1}", encoding="utf-8")
    for words, message in {
        (): "expected: nanos2t exercises grade FOLDER",
        (tmp_path / "nothing",): "expected a folder",
        (tmp_path / "class", "--jobs", 0): "--jobs: '0', expected",
        (tmp_path / "class", "--seconds", "nan"): "--seconds: 'nan', expected",
        (tmp_path / "class", "--assignment", homework): "POINTS: '0'",
        (tmp_path / "class", "--output", tmp_path / "class" / "grades"): "in the folder",
    }.items():
        code, out, err = run(*words)
        assert (code, out) == (2, "") and err.count("\n") == 1 and message in err


def test_interrupted_what_is_finished_is_kept(tmp_path):
    """Ctrl-C while the second student's loop runs: exit code 130, no process is left."""
    submissions = tmp_path / "submissions"
    write_work(submissions, "Ada", 1)
    loop = "open('/dev/null').close()\n    while True: pass"
    add_line(write_work(submissions, "Bob", 1), 1, loop)
    homework = tmp_path / "homework.py"
    homework.write_text("POINTS = {1: 4}", encoding="utf-8")
    output = tmp_path / "grades"
    command = [sys.executable, "-m", "nanos2t", "exercises", "grade", submissions, "--jobs", "1"]
    command += ["--assignment", homework, "--output", output, "--seconds", "100"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("student")
    assert process.stdout.readline().split() == ["Ada", "4", "4"]
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    book = json.loads((output / "grades.json").read_text(encoding="utf-8"))
    assert [student["name"] for student in book["students"]] == ["Ada"]


@pytest.mark.slow
def test_a_class_of_thirty(run, tmp_path):
    """In three minutes on two cores; nobody's points depend on the others'."""
    submissions = tmp_path / "submissions"
    write_class(submissions)
    alone = tmp_path / "alone"
    write_class(alone)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, out, _ = run(submissions, "--output", tmp_path / "grades", "--jobs", 2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The time of the processors, which other programs do not change.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds / 2 < 180
    assert code == 1 and "30 graded in" in out  # one has handed in nothing
    book = json.loads((tmp_path / "grades" / "grades.json").read_text(encoding="utf-8"))
    students = {student["name"]: student for student in book["students"]}
    assert list(students) == sorted(NAMES)

    right = [name for name, student in students.items() if student["points"] == 140]
    assert right and not set(right) & set(SPECIAL) - {"Niklaus"}
    expected = {
        ("Alan", 5): "it took longer than 10 s",
        ("Brian", 4): "it asks for more than 2,000 MB of memory",
        ("Claude", 1): "it ended Python",
        ("Donald", 8): "it ends Python: take out exit()",
        ("Edsger", 8): "it starts another process",
        ("Guido", 1): "it writes a file",
        ("Ida", 1): "there is no ex01_normalisation.py",
        ("John", 1): "utf",
        ("Ken", 6): "there is no ex06_encoder_layer.py",
        ("Margaret", 3): "there is no ex03_conv_block.py",
        ("Radia", 1): "there is no ex01_normalisation.py",
    }
    for (name, number), sentence in expected.items():
        exercise = students[name]["exercises"][number - 1]
        assert sentence.lower() in exercise["sentence"].lower() and exercise["status"] != "ok"
    assert "leads out of the archive" in students["Ida"]["notes"][0]
    assert {path.name for path in (submissions / "Ada").iterdir()} == {
        f"{exercise.name}.py" for exercise in EXERCISES
    }
    for name in "Ada", "Frances":
        run(alone / f"{name}", "--gradescope", tmp_path / "results.json", "--json")
        tests = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["tests"]
        assert sum(test["score"] for test in tests) == pytest.approx(
            students[name]["points"], abs=0.1
        )
