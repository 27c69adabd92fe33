# pytest tests/tutorials/test_exercises_commands.py
"""Grading in child processes, and the commands: exercises, transcribe --with, pytest, export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from exercises import folders
from exercises.course import EXERCISES, select_exercises
from exercises.grading import FAIL, OK
from exercises.processes import Limits, grade_exercises
from exercises.targets import package_function, student
from helpers.answers import exercise_number, read_answer

from nanos2t.cli import main as cli

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "nanos2t" / "assets" / "sample.wav"


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
        8: "import os\nos._exit(0)\n",
        10: read_answer(exercise_number(10)) + "\nprint('hello' * 10000)\n",
    }
    for number, text in texts.items():
        exercise_number(number).path(folder).write_text(text, encoding="utf-8")
    results = list(
        grade_exercises(
            [exercise_number(1), exercise_number(8), exercise_number(10)], folder, Limits(seconds=8)
        )
    )
    assert [result.status for result in results] == [FAIL, FAIL, OK]
    assert "longer than 8 s" in results[0].sentence and "ended Python" in results[1].sentence


def test_commands(run, folder):
    code, out, _ = run("exercises")  # untouched
    assert code == 1 and out.count(" todo ") == 14 and "0 of 14" in out
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
    "words", [["15"], ["hint"], ["solution", "conv"], ["reset", "1", "2"], ["export"]]
)
def test_usage(run, folder, words):
    code, out, err = run("exercises", *words)
    assert (code, out) == (2, "") and err.count("\n") == 1


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
    assert code == 1 and out.count(" todo ") == 14 and "0 of 14" in out and "Next: " in out
    for path in folders.ANSWERS.glob("*.py"):
        shutil.copy(path, tmp_path / "tutorials" / "exercises" / "work")
    code, out = run("-k", "ex05 or ex06")
    assert code == 0 and out.count(" ok ") == 2 and "2 of 2" in out
    code, out = run()
    assert code == 0 and "14 of 14" in out and "All done" in out


@pytest.mark.slow
def test_reference_command(run):
    code, out, _ = run("exercises", "--reference")
    assert code == 0 and out.count(" ok ") == 14 and "14 of 14" in out


@pytest.mark.slow
def test_export(run, tmp_path):
    """In the copy for students all is todo; with the bodies back all is right."""
    copy = tmp_path / "copy"
    assert run("exercises", "export", copy)[0] == 0
    assert run("exercises", "export", copy)[0] == 2  # there is something
    names = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert not [
        name for name in names if "answers" in name or "mistakes" in name or "stubs" in name
    ]
    assert not [name for name in names if name.startswith("tests") or "/work/" in name]

    def grade(*words: str) -> tuple[int, dict]:
        command = [sys.executable, "-m", "nanos2t", "exercises", "--json", *words]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    code, actual = grade()
    assert code == 1 and {entry["status"] for entry in actual["exercises"]} == {"todo"}
    assert grade("reset", "3")[0] == 2
    for path in (ROOT / "nanos2t").rglob("*.py"):
        theirs = copy / "nanos2t" / path.relative_to(ROOT / "nanos2t")
        bodies = theirs.read_text(encoding="utf-8").count("raise NotImplementedError")
        here = [
            t
            for e in EXERCISES
            for t in e.checks
            if package_function(t).__code__.co_filename == str(path)
        ]
        assert bodies == len(here), path
        compile(theirs.read_text(encoding="utf-8"), str(theirs), "exec")
        shutil.copy(path, theirs)
    assert grade()[0] == 0


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
    for word in "conv", "15", "nothing":
        with pytest.raises(ValueError, match="expected an exercise, 1 to 14, or its name"):
            select_exercises([word])
