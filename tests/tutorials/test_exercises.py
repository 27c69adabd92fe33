# pytest tests/tutorials/test_exercises.py
"""The grader graded: stubs, the package, second right answers, every mistake, cheats, crashes, commands."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exercises import folders, make
from exercises.comparison import TOLERANCE, answer_distance, flatten_answer, read_key
from exercises.course import EXERCISES, select_exercises
from exercises.grading import FAIL, OK, TODO, Result, grade_exercise
from exercises.processes import grade_exercises
from exercises.targets import package_function, replace_functions, short_name, student

from nanos2t.cli import main as cli

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "nanos2t" / "assets" / "sample.wav"
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A work folder of a test's own, empty."""
    monkeypatch.setattr(folders, "WORK", tmp_path / "work")
    folders.WORK.mkdir()
    return folders.WORK


def answer(exercise) -> str:
    return exercise.path(folders.ANSWERS).read_text(encoding="utf-8")


def grade(exercise, text: str, folder: Path) -> Result:
    exercise.path(folder).write_text(text, encoding="utf-8")
    return grade_exercise(exercise, folder)


def find(number: int):
    return EXERCISES[number - 1]


# what there is


def test_fourteen_exercises_in_order():
    assert [exercise.number for exercise in EXERCISES] == list(range(1, 15))
    targets = [target for exercise in EXERCISES for target in exercise.checks]
    assert len(set(targets)) == len(targets)
    for exercise in EXERCISES:
        assert len(exercise.hints) == 3 and all(len(hint) > 40 for hint in exercise.hints)
        assert set(exercise.laws) <= set(exercise.checks)
        assert len(make.read_mistakes(exercise)) >= 5, exercise.name
    assert {path.stem for path in folders.ANSWERS.glob("*.py")} == {
        exercise.name for exercise in EXERCISES
    }


def test_stubs_are_up_to_date():
    assert {
        path.name: path.read_text(encoding="utf-8") for path in folders.STUBS.iterdir()
    } == make.make_stubs()


def stored(exercise, target: str) -> dict[str, dict]:
    """{sentence: {case: answer}} of a key; "" is the right one."""
    right, wrong = read_key(exercise, target)
    return {"": right} | wrong


@each
def test_keys_are_up_to_date(exercise):
    assert len(list(folders.KEYS.iterdir())) == len(EXERCISES)
    made = make.stored_answers(exercise)
    for target, answers in made.items():
        known = stored(exercise, target)
        assert list(known) == list(answers), "run: nanos2t exercises make"
        for sentence, cases in answers.items():
            assert known[sentence].keys() == answers[""].keys()
            for case, found in (answers[""] | cases).items():
                assert answer_distance(known[sentence][case], found) < 1e-6, (sentence, case)


@each
def test_two_answers_are_100_tolerances_apart(exercise):
    for target in exercise.checks:
        for (one, first), (two, second) in itertools.combinations(
            stored(exercise, target).items(), 2
        ):
            apart = max(answer_distance(first[case], second[case]) for case in first)
            assert apart >= 100 * TOLERANCE, f"{one!r} and {two!r} are {apart} apart"


# what is graded how


@each
def test_stub_is_todo(exercise, folder):
    result = grade(exercise, exercise.path(folders.STUBS).read_text(encoding="utf-8"), folder)
    assert result.status == TODO and result.sentence.startswith("write ")


@each
def test_reference_passes(exercise):
    result = grade_exercise(exercise, None)
    assert result.status == OK, result
    assert result.sentence.startswith("compare with nanos2t/")


@each
def test_second_right_answer_passes(exercise, folder):
    assert grade(exercise, answer(exercise), folder).status == OK
    right = dict(make.answer_checks(exercise, make.load_source(exercise, answer(exercise), folder)))
    for target, cases in right.items():
        known, _ = read_key(exercise, target)
        assert max(answer_distance(cases[case], known[case]) for case in known) < TOLERANCE / 2


@each
def test_every_mistake_fails_with_its_own_sentence(exercise, folder):
    for sentence, text in make.wrong_sources(exercise).items():
        result = grade(exercise, text, folder)
        assert result.status == FAIL, sentence
        name = result.sentence.removesuffix(sentence).removesuffix(": ")
        assert name in {"", *map(short_name, exercise.checks)}, result


@each
def test_import_of_the_answer_is_found_out(exercise, folder):
    target = list(exercise.checks)[-1]
    module, _, path = target.partition(":")
    outer, _, name = path.rpartition(".")
    taken = f"nanos2t.{module}", path.partition(".")[0], path
    text = answer(exercise)
    cheats = [
        "import {0} as other\ntheirs = other.{2}",
        "from {0} import {1}\ntheirs = {2}" if outer else "from {0} import {1} as theirs",
        "from {0} import *",
        "import nanos2t\n\ndef help():\n    return {0}.{2}",
        "import {0} as other\ntheirs = getattr(other, '{1}')" if not outer else "import inspect",
        "import importlib\ntheirs = importlib.import_module('{0}').{2}",
        "import sys\ntheirs = sys.modules['{0}'].{2}",
        "theirs = __import__('{0}')",
    ]
    for cheat in cheats:
        result = grade(exercise, text + "\n\n" + cheat.format(*taken) + "\n", folder)
        assert result.status == FAIL and "from the package" in result.sentence, (
            cheat,
            result,
        )


def test_the_packages_own_function_is_found_out(folder):
    """By what it is, where its name is hidden from a look at the file."""
    text = "import numpy, nanos2t.transcription.alignment as a\nnormalise = vars(vars(a)['np'].__loader__ and a)['dtw']\n"
    assert (
        "own function" not in grade(find(1), text, folder).sentence
    )  # of another exercise: merely wrong
    for text in (
        "import nanos2t.audio as a\nnormalise = vars(a)['normalise']\n",
        "import functools, nanos2t.audio as a\nnormalise = functools.partial(vars(a)['normalise'])\n",
        "import nanos2t.audio as a\nit = vars(a)['normalise']\ndef normalise(w, e=0):\n    return it(w)\n",
    ):
        assert "is the package's own function" in grade(find(1), text, folder).sentence
    text = "import nanos2t.audio as a\ndef normalise(w, eps=1e-7):\n    return vars(a)['normalise'](w, eps)\n"
    assert "calls itself without end" in grade(find(1), text, folder).sentence


@pytest.mark.parametrize(
    ("number", "old", "new", "sentence"),
    [
        (1, "return centred", "centred", "is there a return?"),
        (1, "return centred", "return [1.0, centred", "line 8 is not valid Python"),
        (1, "import numpy", "import nunpy", "ModuleNotFoundError"),
        (1, "def normalise", "def normalize", "normalise is missing in the file"),
        (1, ", eps: float", ", *, eps: float", "TypeError: "),
        (1, "** 0.5", "** 0.4", "normalise, a short waveform: 100 % of result is wrong, worst at ["),
        (1, "centred = waveform", "print('so far', len(waveform))\n    centred = wavefrm", "NameError"),
        (1, "centred = waveform -", "waveform -= waveform.mean()\n    centred = waveform -", "in place"),
        (1, "return centred", "import random\n    return random.random() * centred", "another result each"),
        (4, "bias\n", "bias * float('nan')\n", "has NaN or infinity, first at [0, 0, 0]"),
        (4, "torch.cat(results, 2) + bias", "torch.cat(results, 1)", "shape (2, 21, 2), expected (2, 7, 6)"),
        (5, "torch.softmax(scores, dim=-1)", "torch.sigmoid(scores)", "the rows do not sum to 1"),
        (5, "<= torch.arange(T)[:, None]", "<= torch.arange(T)[:, None] + 2", "later tokens change earlier"),
        (6, "values, mask)", "values, None if mask is None else ~mask)", "padding change the real"),
        (8, "columns <= rows + past", "(columns <= rows + past).char()", "numbers (int8), expected bool"),
        (10, "torch.roll(labels, 1, dims=1)", "labels.roll(1, 1)[:, :2]", "shape (2, 2), expected (2, 4)"),
        (11, "return Generated(", "return (", "it returned [0], [1], [2], expected .sequences"),
        (14, "raise ValueError(f\"{where} has", "raise KeyError(f\"{where} has", "KeyError"),
    ],
)  # fmt: skip
def test_what_is_not_a_known_mistake(number, old, new, sentence, folder):
    text = answer(find(number))
    assert text.count(old) >= 1
    result = grade(find(number), text.replace(old, new), folder)
    assert result.status == FAIL and sentence in result.sentence, result
    assert "\n" not in result.sentence and len(result.sentence) < 250
    assert ("so far" in result.detail) == ("so far" in new)
    assert ("line 7" in result.sentence) == ("wavefrm" in new)


def test_some_functions_of_an_exercise(folder):
    stub = find(10).path(folders.STUBS).read_text(encoding="utf-8")
    first = answer(find(10)).partition("def cross_entropy")[0]
    loss = "from torch import Tensor\ndef cross_entropy" + stub.partition("def cross_entropy")[2]
    result = grade(find(10), first + loss, folder)
    assert (result.status, result.sentence) == (
        TODO,
        "write cross_entropy; 1 of 2 are right",
    )
    result = grade(find(10), first.replace("roll(labels, 1", "roll(labels, 2") + loss, folder)
    assert result.status == FAIL


def test_functions_in_place_are_taken_out_again():
    from nanos2t import model, wav2vec2

    before = wav2vec2.valid_frames, wav2vec2.Attention.split_heads
    with pytest.raises(ZeroDivisionError):
        with replace_functions(
            {"wav2vec2:valid_frames": min, "wav2vec2:Attention.split_heads": max}
        ):
            assert (
                wav2vec2.valid_frames is model.valid_frames is min
                and wav2vec2.Attention.split_heads is max
            )
            raise ZeroDivisionError
    assert (
        wav2vec2.valid_frames,
        wav2vec2.Attention.split_heads,
    ) == before and model.valid_frames is before[0]


def test_distance():
    def between(one, two) -> float:
        return answer_distance(flatten_answer(one), flatten_answer(two))

    nan = float("nan")
    assert between(torch.ones(2), np.ones(2)) == 0 == between((1, None), (1, None))
    assert between([1.0, nan], [1.0, nan]) == 0 < between([1.0, 2.0], [1.0, 2.1]) < 0.1
    for one, two in (
        ([1.0], [nan]),
        ([1.0], [1]),
        (1.0, [1.0]),
        ([True], [1]),
        (None, 0),
        ({"a": 1}, {"b": 1}),
    ):
        assert between(one, two) == np.inf


# in child processes, and the commands


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs `nanos2t` in the checkout -> exit code, stdout, stderr."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([*map(str, arguments)])
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        return code, found.out, found.err

    return run


@pytest.mark.slow
def test_code_that_hangs_or_ends_python_fails_alone(folder):
    texts = {
        1: "import time\ndef normalise(waveform, eps=1e-7):\n    while True:\n        pass\n",
        8: "import os\nos._exit(0)\n",
        10: answer(find(10)) + "\nprint('hello' * 10000)\n",
    }
    for number, text in texts.items():
        find(number).path(folder).write_text(text, encoding="utf-8")
    results = list(grade_exercises([find(1), find(8), find(10)], folder, seconds=8))
    assert [result.status for result in results] == [FAIL, FAIL, OK]
    assert "longer than 8 s" in results[0].sentence and "ended Python" in results[1].sentence


def test_commands(run, folder):
    code, out, _ = run("exercises")  # untouched
    assert code == 1 and out.count(" todo ") == 14 and "0 of 14" in out
    assert {path.stem for path in folder.iterdir()} == {exercise.name for exercise in EXERCISES}
    assert "ex01_normalisation.py, then: nanos2t exercises 1\n" in out
    find(1).path(folder).write_text(answer(find(1)), encoding="utf-8")
    code, out, _ = run("exercises", 1, "ex08", "--json")
    found = json.loads(out)
    assert code == 1 and (found["passed"], found["total"]) == (1, 2)
    assert [entry["status"] for entry in found["exercises"]] == ["ok", "todo"]
    assert run("exercises", "solution", 8)[0] == 1
    code, out, _ = run("exercises", "solution", "causal", "--yes")
    assert code == 0 and "tril(" in out
    hints = [run("exercises", "hint", 8)[1].count("of 3: ") for _ in range(4)]
    assert hints == [1, 2, 3, 3]
    assert run("exercises", "reset", 1)[0] == 0
    assert (folder / "ex01_normalisation.py.1.bak").read_text(encoding="utf-8") == answer(find(1))
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
    path = find(5).path(folder)
    path.write_text(answer(find(5)).replace("softmax(scores", "softmax(-scores"), encoding="utf-8")
    assert run("transcribe", SAMPLE, "--with", folder)[1] != expected
    path.write_text(answer(find(5)).replace("-1] ** 0.5", "-1] ** 'a'"), encoding="utf-8")
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
            command, cwd=tmp_path, capture_output=True, text=True, env=environment
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
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}

    code, found = grade()
    assert code == 1 and {entry["status"] for entry in found["exercises"]} == {"todo"}
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
