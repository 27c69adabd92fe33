# pytest tests/tutorials/test_exercises_commands.py
"""Grading in child processes, and the commands: exercises, transcribe --with, pytest, export."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from exercises import folders
from exercises.comparison import read_key
from exercises.course import EXERCISES, select_exercises
from exercises.grading import FAIL, OK, Part, Result
from exercises.processes import Limits, grade_exercises
from exercises.report import format_result, note_delays
from exercises.targets import student
from helpers.answers import exercise_number, read_answer

from nanos2t.cli import main as cli
from nanos2t.cli.console import CommandError

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "nanos2t" / "assets" / "sample.wav"
COUNT = len(EXERCISES)


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `nanos2t` in the checkout -> exit code, stdout, stderr."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([*map(str, arguments)])
        stderr = capsys.readouterr()
        assert "Traceback" not in stderr.err
        return code, stderr.out, stderr.err

    return run


@pytest.mark.slow
def test_code_that_hangs_or_ends_python_fails_alone(folder):
    texts = {
        1: "import time\ndef normalise(waveform, eps=1e-7):\n    while True:\n        pass\n",
        2: "import ctypes\nctypes.string_at(0)\n",
        3: "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
        8: "import os\nos._exit(3)\n",
        10: read_answer(exercise_number(10)) + "\nprint('hello' * 10000)\n",
    }
    for number, text in texts.items():
        exercise_number(number).path(folder).write_text(text, encoding="utf-8")
    exercises = [exercise_number(number) for number in texts]
    results = list(grade_exercises(exercises, folder, Limits(seconds=8)))
    assert [result.id for result in results] == [exercise.id for exercise in exercises]
    assert [result.status for result in results] == [FAIL, FAIL, FAIL, FAIL, OK]
    assert "it took longer than 8 s, and was in normalise, line " in results[0].sentence
    assert "it ended Python by a crash (SIGSEGV)" in results[1].sentence
    assert "it ended Python, killed from outside" in results[2].sentence
    assert "it ended Python (exit code 3)" in results[3].sentence


def test_commands(run, folder):
    code, out, _ = run("exercises")  # untouched
    assert code == 1 and out.count(" todo ") == COUNT and f"0 of {COUNT}, about " in out
    assert "write normalise  (15 min, *)\n" in out
    assert "Read first: tutorials/01_waveform_to_frames.py\n" in out
    assert {path.stem for path in folder.iterdir()} == {exercise.name for exercise in EXERCISES}
    assert "ex01_normalisation.py, then: nanos2t exercises 1\n" in out
    exercise_number(1).path(folder).write_text(read_answer(exercise_number(1)), encoding="utf-8")
    code, out, _ = run("exercises", 1, "ex08", "--json")
    actual = json.loads(out)
    assert code == 1 and (actual["passed"], actual["total"]) == (1, 2)
    assert [entry["status"] for entry in actual["exercises"]] == ["ok", "todo"]
    assert run("exercises", "solution", 8)[0] == 1
    code, out, _ = run("exercises", "solution", "causal", "--yes")
    assert code == 0 and "tril(" in out
    hints = [run("exercises", "hint", 8)[1].count("of 3: ") for _ in range(4)]
    assert hints == [1, 2, 3, 3]
    assert run("exercises", "reset", 1)[0] == 0
    assert (folder / "ex01_normalisation.py.1.bak").read_text(encoding="utf-8") == read_answer(
        exercise_number(1)
    )
    assert "NotImplementedError" in (folder / "ex01_normalisation.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        [str(COUNT + 1)],
        ["--watch", "--json"],
        ["hint"],
        ["solution", "conv"],
        ["reset", "1", "2"],
        ["export"],
    ],
)
def test_usage(run, folder, words):
    code, out, err = run("exercises", *words)
    assert (code, out) == (2, "") and err.count("\n") == 1


def test_watch_checks_a_file_again_when_it_is_saved(folder):
    """Until Ctrl-C, which is exit code 130."""
    code = "import sys; from exercises import folders; from pathlib import Path; "
    code += "folders.WORK = Path(sys.argv.pop()); from nanos2t.__main__ import run_program; "
    code += "raise SystemExit(run_program())"
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tutorials")])
    process = subprocess.Popen(
        [sys.executable, "-c", code, "exercises", "8", "--watch", str(folder)],
        env=os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )

    # Whatever happens, the test ends.
    timer = threading.Timer(120, process.kill)
    timer.start()

    def read_until(beginning: str) -> str:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith(beginning):
                break
        return "".join(lines)

    assert "todo  write causal_mask  (15 min, *)" in read_until("Watching")
    exercise = exercise_number(8)
    exercise.path(folder).write_text(read_answer(exercise), encoding="utf-8")
    text = read_until("Watching")
    assert " ok " in text and "1 of 1" in text
    assert "The next one, cross-attention: nanos2t exercises 9\n" in text
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    timer.cancel()
    assert (process.returncode, out) == (130, "\nNo longer watching.\n")
    assert "interrupted" not in error


def test_a_result_that_takes_long_is_announced():
    exercise = exercise_number(8)
    texts = []
    is_written = threading.Event()

    def write(text: str) -> None:
        texts.append(text)
        is_written.set()

    def results():
        assert is_written.wait(60)
        yield "a result"

    assert [*note_delays([exercise], results(), 0.0, write)] == ["a result"]
    assert texts == [
        "08  causal mask: no result after 0 s; what takes 30 s of the processor's time is stopped\n"
    ]
    assert [*note_delays([exercise], iter(["another"]), 1e5, write)] == ["another"]
    assert len(texts) == 1


def test_functions_that_were_not_checked_are_counted():
    parts = [Part("split_heads", "FAIL")]
    result = Result("ex05", "attention", "FAIL", "split_heads: wrong", parts=parts)
    assert format_result(result).endswith("wrong  (3 later functions are not checked yet)")
    result.parts = parts * 3
    assert format_result(result).endswith("wrong  (1 later function is not checked yet)")
    for all_or_none in parts * 4, []:
        result.parts = all_or_none
        assert format_result(result).endswith("split_heads: wrong")


def test_report_with_second_answers(run, folder, tmp_path):
    """The page shows what the student's functions do, also those that the fast model has not."""
    exercise = exercise_number(4)
    path = exercise.path(folder)
    texts = []
    for old, new in ("", ""), ("return ", "return -9 * "):
        path.write_text(read_answer(exercise).replace(old, new), encoding="utf-8")
        page = tmp_path / "page.html"
        code, _, err = run("report", SAMPLE, "-o", page, "--with", folder)
        assert code == 0 and "with your position_conv" in err
        texts.append(page.read_text(encoding="utf-8"))
        assert '"own_functions": ["position_conv"' in texts[-1].replace('":[', '": [')
    assert "two four seven" in texts[0] and "two four seven" not in texts[1]


def test_transcribe_with_second_answers(run, folder):
    """The real model on other code, from the weight map to the words' times."""
    for exercise in EXERCISES:
        shutil.copy(exercise.path(folders.ANSWERS), folder)
    for more in [], ["--num-beams", 3, "--language", "de"], ["--words", "--format", "json"]:
        _, expected, _ = run("transcribe", SAMPLE, *more)
        code, out, err = run("transcribe", SAMPLE, "--with", folder, *more)
        assert code == 0 and out and "with your normalise, conv_output_lengths" in err
        if more[:1] == ["--words"]:
            words, theirs = (json.loads(text)["segments"][0]["words"] for text in (out, expected))
            for one, two in zip(words, theirs, strict=True):
                assert one == pytest.approx(two, abs=1e-3)
        else:
            assert out == expected


def test_transcribe_with_wrong_or_broken_work(run, folder):
    assert run("transcribe", SAMPLE, "--with", folder)[0] == 2  # nothing there
    folders.prepare_work(folder)
    _, expected, _ = run("transcribe", SAMPLE)
    code, out, err = run("transcribe", SAMPLE, "--with", folder)
    assert (code, out) == (0, expected) and "nothing is written yet" in err
    path = exercise_number(5).path(folder)
    path.write_text(
        read_answer(exercise_number(5)).replace("softmax(scores", "softmax(-scores"),
        encoding="utf-8",
    )
    assert run("transcribe", SAMPLE, "--with", folder)[1] != expected
    path.write_text(
        read_answer(exercise_number(5)).replace("-1] ** 0.5", "-1] ** 'a'"), encoding="utf-8"
    )
    code, out, err = run("transcribe", SAMPLE, "--with", folder)
    assert (code, out) == (
        1,
        "",
    ) and "ex05_attention.py, line 6, in attention_weights: TypeError" in err
    path.write_text("def", encoding="utf-8")
    assert run("transcribe", SAMPLE, "--with", folder)[0] == 2


@pytest.mark.slow
def test_pytest_command(tmp_path):
    """`pytest tutorials/exercises` in a copy: todo is exit 1, all right is exit 0, -k chooses."""
    for name in "nanos2t", "weights_map", "tutorials/exercises":
        skip = shutil.ignore_patterns("work", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}

    def run(*more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "pytest", "tutorials/exercises", *more]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
        )
        return done.returncode, done.stdout

    code, out = run()
    assert code == 1 and out.count(" todo ") == COUNT and f"0 of {COUNT}" in out and "Next: " in out
    for path in folders.ANSWERS.glob("*.py"):
        shutil.copy(path, tmp_path / "tutorials" / "exercises" / "work")
    code, out = run("-k", "ex05 or ex06")
    assert code == 0 and out.count(" ok ") == 2 and "2 of 2" in out
    code, out = run()
    assert code == 0 and f"{COUNT} of {COUNT}" in out and "All done" in out


@pytest.mark.slow
def test_reference_command(run):
    code, out, _ = run("exercises", "--reference")
    assert code == 0 and out.count(" ok ") == COUNT and f"{COUNT} of {COUNT}" in out


def test_a_model_with_functions_in_place_calls_them():
    """Not the kernels that nanos2t.load has instead."""
    import nanos2t

    def broken(*arguments):
        raise TypeError("mine")

    sample = ROOT / "nanos2t" / "assets" / "sample.wav"
    for target in (
        "wav2vec2:position_conv",
        "wav2vec2:MLP.forward",
        "wav2vec2:FeatureEncoder.forward",
    ):
        with pytest.raises(ValueError, match="mine"), student({target: broken}):
            nanos2t.load().transcribe(sample)


@pytest.mark.parametrize("target", ["audio:normalise", "remap:import_state"])
def test_what_a_function_returns_makes_no_traceback(target):
    """What the package itself refuses keeps its own sentence."""
    import nanos2t

    with (
        pytest.raises(ValueError, match="the package fails in nanos2t/.*, line .*: TypeError: "),
        student({target: Mock(return_value=None)}),
    ):
        nanos2t.load().transcribe(SAMPLE)
    for error in OSError("gone"), ValueError("no audio"), CommandError("closed", 2):
        with pytest.raises(type(error), match=str(error)), student({}):
            raise error


def test_an_exercise_by_its_name():
    """As the grader prints it, or a part of it that is one's alone."""
    for word, number in (
        ("attention", 5),
        ("cross-attention", 9),
        ("Cross attention", 9),
        ("beam", 12),
        ("7", 7),
    ):
        assert [exercise.number for exercise in select_exercises([word])] == [number]
    for word in "conv", str(COUNT + 1), "nothing":
        with pytest.raises(ValueError, match=f"expected an exercise, 1 to {COUNT}, or its name"):
            select_exercises([word])


def test_an_answer_learned_by_heart_is_right_for_no_other_seed(run, folder):
    """Inputs are drawn anew in each run; the number that is printed repeats them."""
    right, _ = read_key(exercise_number(1), "audio:normalise")
    known = {case: answer[""].tolist() for case, answer in right.items() if "" in answer}
    text = (
        "import numpy as np\n"
        f"ANSWERS = {list(known.values())!r}\nCALLS = []\n\n\n"
        "def normalise(waveform, eps=1e-7):\n"
        "    CALLS.append(waveform)\n"
        "    if len(CALLS) <= len(ANSWERS):\n"
        "        answer = np.array(ANSWERS[len(CALLS) - 1], np.float32)\n"
        "        return np.repeat(answer, len(waveform) // len(answer))\n"
        "    return np.zeros(5, np.float32)\n"
    )
    exercise_number(1).path(folder).write_text(text, encoding="utf-8")
    code, out, _ = run("exercises", 1)
    assert code == 1
    seed = re.search(r"right for the public numbers, wrong for others \(--seed (\d+)\)", out)[1]
    _, again, _ = run("exercises", 1, "--seed", seed)
    assert again == out
    assert run("exercises", 1, "--seed", "ten")[0] == 2

    exercise_number(1).path(folder).write_text(read_answer(exercise_number(1)), encoding="utf-8")
    assert run("exercises", 1)[0] == 0
