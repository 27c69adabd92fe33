# pytest tests/tutorials/test_exercises_guard.py
"""What a process that runs a student's code refuses while a class is graded, and its limits."""

import json
import sys
import time

import pytest
from exercises.grading import FAIL, OK
from exercises.guard import explain_memory
from exercises.processes import Limits, grade_exercises, try_grading
from helpers.answers import exercise_number, read_answer
from helpers.processes import is_running

HOSTILE = """
import os
import subprocess


def normalise(waveform, eps=1e-7):
    {attempt}
    mean = waveform.mean()
    return ((waveform - mean) / (waveform.var() + eps) ** 0.5).astype("float32")
"""


def first_sentence(folder, attempt: str, **limits) -> str:
    """The sentence about exercise 1 with an attempt in it; exercise 8 after it is right."""
    exercises = [exercise_number(1), exercise_number(8)]
    text = HOSTILE.format(attempt=attempt)
    exercises[0].path(folder).write_text(text, encoding="utf-8")
    exercises[1].path(folder).write_text(read_answer(exercises[1]), encoding="utf-8")
    limits = Limits(seconds=20, private=(str(folder.parent / "private"),), **limits)
    first, second = grade_exercises(exercises, folder, limits)
    assert second.status == OK, second
    assert "\n" not in first.sentence
    return first.sentence if first.status == FAIL else ""


def test_what_no_exercise_needs_is_refused_by_name(folder):
    """One process grades a file for each attempt, and one that is right after them."""
    private = folder.parent / "private"
    private.mkdir()
    target = private / "grades.json"
    target.write_text("{}", encoding="utf-8")
    attempts = {
        f"open({str(target)!r}, 'w')": "it writes a file",
        f"os.open({str(target)!r}, os.O_RDWR)": "it writes a file",
        f"open({str(target)!r})": "it reads grades.json, which is refused",
        "import nanos2t; open(nanos2t.wav2vec2.__file__)": "it reads wav2vec2.py, which is refused",
        f"os.remove({str(target)!r})": "it removes a file",
        "os.fork()": "it starts another process",
        "os.kill(os.getppid(), 9)": "it ends a process",
        "__import__('subprocess').run(['true'])": "the file uses __import__",
        "os.system('true')": "it starts another program",
        "socket.create_connection(('localhost', 1))": "it uses the network",
    }
    exercises = [exercise_number(1 + number) for number in range(len(attempts) + 1)]
    for exercise, attempt in zip(exercises, [*attempts, "0"], strict=True):
        text = f"import os\nimport socket\n{attempt}\n{read_answer(exercise)}"
        exercise.path(folder).write_text(text, encoding="utf-8")

    results = list(grade_exercises(exercises, folder, Limits(private=(str(private),))))
    assert results.pop().status == OK
    for result, sentence in zip(results, attempts.values(), strict=True):
        assert sentence in result.sentence and result.status == FAIL
        assert "refused" in result.sentence or "__import__" in result.sentence
    assert target.read_text(encoding="utf-8") == "{}"


def test_an_honest_function_is_not_refused(folder):
    """It may import what it needs, also when it runs, and print to stdout and stderr."""
    attempt = "import sys, csv, decimal; print('a'); print('b', file=sys.stderr); os.write(2, b'c')"
    assert first_sentence(folder, attempt) == ""


@pytest.mark.slow
def test_torch_is_not_refused_its_own_files(folder):
    """An operation on the meta device imports parts of torch that write temporary files."""
    attempt = "import torch; torch.cat([torch.ones(2, device='meta')])"
    assert first_sentence(folder, attempt) == ""
    attempt = "import tempfile, shutil; shutil.rmtree(tempfile.mkdtemp())"
    assert first_sentence(folder, attempt) == ""


def test_memory_is_limited(folder):
    attempt = "bytearray(2**33)"
    sentence = first_sentence(folder, attempt, megabytes=1000)
    assert sentence.endswith("it asks for more than 1,000 MB of memory (line 7)")


@pytest.mark.parametrize(
    "message",
    [
        "MemoryError: ",
        "_ArrayMemoryError: Unable to allocate 8.00 GiB for an array with shape (9,)",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 8589934592 bytes. Error code 12",
    ],
)
def test_errors_of_memory_are_put_in_plain_words(message):
    expected = "attend: it asks for more than 1,000 MB of memory"
    assert explain_memory(f"attend: {message}", 1000) == expected
    assert explain_memory("attend: RuntimeError: shapes differ", 5) != expected


def test_a_student_is_not_blamed_for_the_grader():
    exercise = exercise_number(8)
    result = try_grading(exercise, lambda: {}["key"])
    assert result.status == FAIL
    assert result.sentence == "the grader itself failed, KeyError: 'key': please report it"


def test_results_are_not_taken_from_the_students_code(folder):
    """Not even if it writes lines like the grader's own into all open files."""
    forged = {"result": {"id": "ex01", "title": "", "status": "ok", "sentence": ""}}
    line = repr(json.dumps(forged | {"parts": []}) + "\n")
    attempt = (
        f"[os.write(n, {line}.encode()) for n in range(3, 9) if os.path.exists(f'/dev/fd/{{n}}')]"
    )
    assert "grader's own output" in first_sentence(folder, attempt.replace("{{n}}", "{n}"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_programs_that_were_started_end_too(folder):
    """Those that a process starts before it is guarded, here by a file without a guard."""
    path = folder / "pid"
    lines = [
        "import subprocess",
        "child = subprocess.Popen(['sleep', '600'])",
        f"open({str(path)!r}, 'w').write(str(child.pid))",
        "",
    ]
    text = "\n".join(lines)
    exercise = exercise_number(8)
    exercise.path(folder).write_text(text + read_answer(exercise), encoding="utf-8")
    [result] = grade_exercises([exercise], folder)
    assert result.status == OK
    pid = int(path.read_text(encoding="utf-8"))
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
