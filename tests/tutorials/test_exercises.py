# pytest tests/tutorials/test_exercises.py
"""The grader graded: stubs, the package, second right answers, every mistake, cheats."""

import itertools
import pydoc
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exercises import folders, make
from exercises.calls import collect_answers
from exercises.comparison import (
    TOLERANCE,
    answer_distance,
    flatten_answer,
    mistake_name,
    read_key,
)
from exercises.course import EXERCISES
from exercises.grading import FAIL, OK, RUNNING, TODO, Result, grade_exercise
from exercises.inputs import GPT2, STORED
from exercises.loading import load_functions
from exercises.processes import grade_public, try_grading
from exercises.targets import package_function, replace_functions, short_name
from helpers.answers import exercise_number, read_answer

from nanos2t.decoder import Decoder
from nanos2t.generate import DecoderSession, beam_search, greedy_search
from nanos2t.generation_config import GenerationConfig

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "nanos2t" / "assets" / "sample.wav"
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
# The mistakes of the two searches take longer than all others.
SEARCHES = EXERCISES[10:12]
parameters = [
    pytest.param(exercise, id=exercise.name, marks=pytest.mark.slow if exercise in SEARCHES else ())
    for exercise in EXERCISES
]
each_searches_slow = pytest.mark.parametrize("exercise", parameters)


def grade(exercise, text: str, folder: Path) -> Result:
    exercise.path(folder).write_text(text, encoding="utf-8")
    return grade_exercise(exercise, folder)


# what there is


def test_fourteen_exercises_in_order():
    """Or more: those with a file of their own come after them."""
    numbers = [exercise.number for exercise in EXERCISES]
    assert numbers == list(range(1, len(EXERCISES) + 1)) and len(numbers) >= 14
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


def test_pydoc_knows_what_the_stubs_send_to_it():
    """It shows what a function says, without the answer below it."""
    names = []
    for exercise in EXERCISES:
        names += re.findall(r"python -m pydoc ([\w.]+)", exercise.task)
    assert len(names) >= 2 and all(pydoc.locate(name) for name in names)


@each
def test_each_exercise_has_minutes_and_a_lesson_that_ends_with_it(exercise):
    assert 5 <= exercise.minutes <= 120 and exercise.difficulty in (1, 2, 3)
    lesson = (ROOT / "tutorials" / f"{exercise.lesson}.py").read_text(encoding="utf-8")
    _, _, end = lesson.partition("# ## Now write it")
    line = f"#     nanos2t exercises {exercise.number} "
    assert line in end or exercise.number > 14
    if line in end:
        stars = "*" * exercise.difficulty
        [text] = [part for part in end.splitlines() if part.startswith(line)]
        assert text.endswith(f": {exercise.minutes} minutes, {stars}")


@each_searches_slow
def test_keys_are_up_to_date(exercise):
    assert len(list(folders.KEYS.iterdir())) == len(EXERCISES)
    made = make.stored_answers(exercise)
    for target, answers in made.items():
        known = stored(exercise, target)
        assert list(known) == list(answers), "run: nanos2t exercises make"
        for sentence, cases in answers.items():
            assert known[sentence].keys() == answers[""].keys()
            for case, found in (answers[""] | cases).items():
                assert answer_distance(known[sentence][case], found) < make.SAME, (sentence, case)


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
    assert grade(exercise, read_answer(exercise), folder).status == OK
    right = dict(
        make.answer_checks(exercise, make.load_source(exercise, read_answer(exercise), folder))
    )
    for target, cases in right.items():
        known, _ = read_key(exercise, target)
        assert max(answer_distance(cases[case], known[case]) for case in known) < TOLERANCE / 2


@each_searches_slow
def test_every_mistake_fails_with_its_own_sentence(exercise, folder):
    for key, text in make.wrong_sources(exercise).items():
        sentence = mistake_name(key)
        result = grade(exercise, text, folder)
        assert result.status == FAIL, sentence
        # What shows in exceptions alone is only likely.
        name = result.sentence.removesuffix(sentence).removesuffix("looks like: ").strip(": ")
        assert name in {"", *map(short_name, exercise.checks)}, (sentence, result)


@each
def test_import_of_the_answer_is_found_out(exercise, folder):
    target = list(exercise.checks)[-1]
    module, _, path = target.partition(":")
    outer, _, name = path.rpartition(".")
    taken = f"nanos2t.{module}", path.partition(".")[0], path
    text = read_answer(exercise)
    cheats = [
        "import {0} as other\ntheirs = other.{2}",
        "from {0} import {1}\ntheirs = {2}" if outer else "from {0} import {1} as theirs",
        "from {0} import *",
        "import nanos2t\n\ndef help():\n    return {0}.{2}",
        "import {0} as other\ntheirs = getattr(other, '{1}')" if not outer else "import inspect",
        "import importlib\ntheirs = importlib.import_module('{0}').{2}",
        "import sys\ntheirs = sys.modules['{0}'].{2}",
        "theirs = __import__('{0}')",
        "import exercises.grading as g\ng.is_close = lambda *a: True",
        "import nanos2t.audio as a\nexec(open(a.__file__).read())",
        "import gc\ntheirs = gc.get_objects()",
    ]
    for cheat in cheats:
        result = grade(exercise, text + "\n\n" + cheat.format(*taken) + "\n", folder)
        assert result.status == FAIL and "from the package" in result.sentence, (
            cheat,
            result,
        )


def test_the_packages_own_function_is_found_out(folder):
    """By what it is, where its name is hidden from a look at the file."""
    # The package's own function of another exercise is merely wrong.
    text = (
        "import numpy, nanos2t.transcription.alignment as a\n"
        "normalise = vars(vars(a)['np'].__loader__ and a)['dtw']\n"
    )
    assert "own function" not in grade(exercise_number(1), text, folder).sentence

    for text in (
        "normalise = vars(a)['normalise']\n",
        "import functools\nnormalise = functools.partial(vars(a)['normalise'])\n",
        "it = vars(a)['normalise']\ndef normalise(w, e=0):\n    return it(w)\n",
    ):
        result = grade(exercise_number(1), "import nanos2t.audio as a\n" + text, folder)
        assert "is the package's own function" in result.sentence

    text = (
        "import nanos2t.audio as a\n"
        "def normalise(w, eps=1e-7):\n    return vars(a)['normalise'](w, eps)\n"
    )
    assert "calls itself without end" in grade(exercise_number(1), text, folder).sentence


@pytest.mark.parametrize(
    ("number", "old", "new", "sentence"),
    [
        (1, "return centred", "centred", "is there a return?"),
        (1, "return centred", "return [1.0, centred", "line 8 is not valid Python"),
        (
            1,
            "import numpy",
            "import nunpy",
            "No module named 'nunpy': what is not Python's, torch's",
        ),
        (1, "def normalise", "def normalize", "normalise is missing in the file"),
        (1, ", eps: float", ", *, eps: float", "TypeError: "),
        (
            1,
            "** 0.5",
            "** 0.4",
            "normalise, a short waveform: 100 % of result is wrong, worst at [",
        ),
        (
            1,
            "centred = waveform",
            "print('so far', len(waveform))\n    centred = wavefrm",
            "NameError",
        ),
        (
            1,
            "centred = waveform -",
            "waveform -= waveform.mean()\n    centred = waveform -",
            "in place",
        ),
        (
            12,
            "return Beams(tokens, chosen, scores, ended), parents",
            "running.scores -= 1\n    return Beams(tokens, chosen, scores, ended), parents",
            "in place",
        ),
        (
            1,
            "return centred",
            "import random\n    return random.random() * centred",
            "another result each",
        ),
        (4, "bias\n", "bias * float('nan')\n", "has NaN or infinity, first at [0, 0, 0]"),
        (
            4,
            "torch.cat(results, 2) + bias",
            "torch.cat(results, 1)",
            "shape (2, 21, 2), expected (2, 7, 6)",
        ),
        (
            5,
            "torch.softmax(scores, dim=-1)",
            "torch.sigmoid(scores) / 2",
            "the rows do not sum to 1",
        ),
        (
            5,
            "<= torch.arange(T)[:, None]",
            "<= torch.arange(T)[:, None] + 2",
            "later tokens change earlier",
        ),
        (
            6,
            "values, mask)",
            "values, None if mask is None else mask.flip(3))",
            "padding change the real",
        ),
        (
            13,
            "np.array(path[::-1])",
            "np.array(path[::-1]) > 0",
            "bool (bool), expected whole numbers",
        ),
        (
            10,
            "torch.roll(labels, 1, dims=1)",
            "labels.roll(1, 1)[:, :2]",
            "shape (2, 2), expected (2, 4)",
        ),
        (11, "return Generated(", "return (", "it returned [0], [1], [2], expected .sequences"),
        (14, 'raise ValueError(f"{where} has', 'raise KeyError(f"{where} has', "KeyError"),
    ],
)
def test_what_is_not_a_known_mistake(number, old, new, sentence, folder):
    text = read_answer(exercise_number(number))
    assert text.count(old) >= 1
    result = grade(exercise_number(number), text.replace(old, new), folder)
    assert result.status == FAIL and sentence in result.sentence, result
    assert "\n" not in result.sentence and len(result.sentence) < 250
    assert ("so far" in result.detail) == ("so far" in new)
    assert ("line 7" in result.sentence) == ("wavefrm" in new)


def test_a_case_keeps_its_result_though_the_next_writes_over_it():
    """A cache is moved in place, by the package: its right answers are those of each call."""
    buffer = np.zeros(2)
    answer = flatten_answer((buffer, torch.from_numpy(buffer)))
    buffer += 1
    assert [array.tolist() for array in answer.values()] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("K", [1, 2])
def test_right_answers_search_a_batch_that_utterances_leave(K, folder):
    """The package's search, with whose rows a student's cache and session must get on."""
    decoder = STORED.weights(Decoder(replace(GPT2, max_positions=16)), 3)
    memory = 3 * STORED(4, 5, 6, 12)
    config = GenerationConfig(
        max_length=14, num_beams=K, eos_token_id=[1, 2, 3], pad_token_id=0, early_stopping=True
    )
    functions = {}
    for exercise in SEARCHES:
        path = exercise.path(folder)
        path.write_text(read_answer(exercise), encoding="utf-8")
        functions |= load_functions(exercise, path)
    functions = {
        target: function for target, function in functions.items() if "search" not in target
    }

    def search():
        session = DecoderSession(decoder, memory, torch.tensor([6, 3, 5, 1, 4]), 5 * K, 14)
        find = beam_search if K > 1 else greedy_search
        result = find(session, torch.full((5, 1), 4), config)
        return result, len(session.cross_keys_values[0][0])

    expected, num_left = search()
    assert num_left < 5
    with replace_functions(functions):
        result, _ = search()
    for one, two in zip(flatten_answer(result).values(), flatten_answer(expected).values()):
        assert np.allclose(one, two)


def test_some_functions_of_an_exercise(folder):
    stub = exercise_number(10).path(folders.STUBS).read_text(encoding="utf-8")
    first = read_answer(exercise_number(10)).partition("def cross_entropy")[0]
    loss = "from torch import Tensor\ndef cross_entropy" + stub.partition("def cross_entropy")[2]
    result = grade(exercise_number(10), first + loss, folder)
    assert (result.status, result.sentence) == (
        TODO,
        "write cross_entropy; 1 of 2 are right",
    )
    result = grade(
        exercise_number(10), first.replace("roll(labels, 1", "roll(labels, 2") + loss, folder
    )
    assert result.status == FAIL


def test_functions_in_place_are_taken_out_again():
    from nanos2t import wav2vec2
    from nanos2t.training import examples

    lengths = wav2vec2.conv_output_lengths
    split_heads = wav2vec2.Attention.split_heads
    other = {"wav2vec2:conv_output_lengths": min, "wav2vec2:Attention.split_heads": max}
    with pytest.raises(ZeroDivisionError), replace_functions(other):
        assert wav2vec2.conv_output_lengths is examples.conv_output_lengths is min
        assert wav2vec2.Attention.split_heads is max
        raise ZeroDivisionError
    assert wav2vec2.conv_output_lengths is examples.conv_output_lengths is lengths
    assert wav2vec2.Attention.split_heads is split_heads


def test_distance():
    def between(one, two) -> float:
        return answer_distance(flatten_answer(one), flatten_answer(two))

    nan = float("nan")
    assert between(torch.ones(2), np.ones(2)) == 0 == between((1, None), (1, None))
    assert between([1.0, nan], [1.0, nan]) == 0 < between([1.0, 2.0], [1.0, 2.1]) < 0.1
    # Of two numbers as large as these, whole ones are either equal or not.
    assert between(1e8, 1e8 + 1) < TOLERANCE < 1 == between(10**8, 10**8 + 1)
    for one, two in (
        ([1.0], [nan]),
        ([1.0], [1]),
        (1.0, [1.0]),
        ([True], [1]),
        (None, 0),
        ({"a": 1}, {"b": 1}),
    ):
        assert between(one, two) == np.inf


def test_each_function_has_a_verdict_of_its_own(folder):
    """With a report, those after a wrong one are checked with the package's in its place."""
    exercise = exercise_number(5)
    text = read_answer(exercise).replace(
        "torch.softmax(scores, dim=-1)", "torch.softmax(scores, 0)"
    )
    exercise.path(folder).write_text(text, encoding="utf-8")
    reported = []
    result = grade_exercise(exercise, folder, reported.append)

    verdicts = [part for part in reported if part.status != RUNNING]
    assert verdicts == result.parts and len(reported) == 2 * len(verdicts)
    assert result.status == FAIL
    verdicts = {part.name: (part.status, part.num_right, part.num_cases) for part in result.parts}
    assert list(verdicts) == [short_name(target) for target in exercise.checks]
    wrong = [name for name, (status, _, _) in verdicts.items() if status == FAIL]
    assert "attention_weights" in wrong and "Attention.split_heads" not in wrong
    for status, num_right, num_cases in verdicts.values():
        assert (num_right == num_cases) == (status == OK)
    assert len(grade_exercise(exercise, folder).parts) < len(result.parts)


@pytest.mark.parametrize("branch", ["self.pre_norm", "not self.pre_norm"])
def test_a_mistake_in_one_branch_has_its_name(branch, folder):
    """Whoever writes each branch on its own makes a mistake in one of them."""
    exercise = exercise_number(6)
    mask = "self.self_attn(source, keys, values, mask)"
    text = read_answer(exercise)
    assert text.count(mask) == 1
    text = text.replace(mask, mask.replace("mask)", f"None if {branch} else mask)"))
    result = grade(exercise, text, folder)
    kind = f"pre_norm={branch == 'self.pre_norm'}"
    expected = f"Block.forward: {kind} only: the mask is not passed to the attention"
    assert result.sentence == expected


def test_an_exception_is_no_mistake_that_shows_elsewhere(folder):
    """exit() in each case is not "the mask is not on `device`", which no result has then."""
    exercise = exercise_number(8)
    text = "def causal_mask(T, past, device):\n    exit()\n"
    result = grade(exercise, text, folder)
    # The line is the student's, not that of exit() in Python.
    assert result.sentence.endswith("it ends Python: take out exit() (line 2)")


# numbers that are drawn


@each
def test_arguments_are_as_a_program_has_them(exercise):
    """Contiguous, so that `labels.view(-1)` does not fail for a reason that no task names.

    Queries, keys and values are views in the package as well: the width cut into heads.
    """
    for target in exercise.checks:
        if target in ("wav2vec2:attend", "wav2vec2:Attention.forward"):
            continue
        function = package_function(target)

        def contiguous(*arguments, function=function, **named):
            for argument in (*arguments, *named.values()):
                if isinstance(argument, torch.Tensor) and argument.dtype != torch.bool:
                    assert argument.is_contiguous(), argument.shape
            return function(*arguments, **named)

        _, probe = collect_answers(exercise, target, contiguous)
        assert not [e for e in probe.errors.values() if isinstance(e, AssertionError)], target


@pytest.mark.parametrize("number, seed", [(1, 1), (4, 3)])
def test_a_function_of_its_arguments_is_not_called_random(number, seed, folder):
    """The second call has the arguments of the first, also if they are those of a seed."""
    exercise = exercise_number(number)
    [target] = exercise.checks
    name = short_name(target)
    right, _ = read_key(exercise, target)
    limit = max(np.abs(a[""]).max() for a in right.values() if "" in a) + 1e-6
    text = (
        f"{read_answer(exercise)}\n\nfirst = {name}\n\n\ndef {name}(*arguments, **named):\n"
        f"    return first(*arguments, **named).clip(-{limit}, {limit})\n"
    )
    exercise.path(folder).write_text(text, encoding="utf-8")
    result = grade_public(exercise, folder, seed)
    assert f"right for the public numbers, wrong for others (--seed {seed})" in result.sentence
    assert "% of result is wrong, worst at" in result.sentence


@pytest.mark.parametrize(
    "number, text, sentence",
    [
        (8, "def causal_mask(T:\n", "line 1 is not valid Python: '(' was never closed"),
        (1, "import numpyy\n", "the file cannot be imported: ModuleNotFoundError: No module named"),
        (5, "import inspect\n", "the file uses inspect, with which answers could be taken"),
        (10, "from nanos2t.model import shift_right\n", "model.shift_right from the package"),
        (12, "", "KVCache.reorder is missing in the file"),
        (13, "\0", "not valid Python"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_no_fault_of_the_grader(number, text, sentence, folder):
    exercise = exercise_number(number)
    exercise.path(folder).write_text(text, encoding="utf-8")
    result = try_grading(exercise, lambda: grade_public(exercise, folder, seed=1))
    assert sentence in result.sentence and "report" not in result.sentence
