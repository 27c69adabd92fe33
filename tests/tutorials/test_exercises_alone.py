# pytest tests/tutorials/test_exercises_alone.py
"""Each function is judged alone, whatever those before it are, do or leave behind."""

import os
import random
import sys

import numpy as np
import pytest
import torch
from exercises.assignment import Assignment
from exercises.calls import collect_answers
from exercises.grading import FAIL, OK, RUNNING, TODO, grade_exercise
from exercises.inputs import Draw
from exercises.private_cases import check_private_cases
from exercises.processes import Limits, grade_exercises, try_grading
from exercises.state import keep_process
from exercises.targets import package_function
from helpers.answers import exercise_number, read_answer

SLIPS = [
    (2, 'rounding_mode="floor") + 1', 'rounding_mode="floor")', 0),
    (5, "queries.shape[-1] ** 0.5", "(queries.shape[1] * queries.shape[-1]) ** 0.5", 1),
    (5, "permute(0, 2, 1, 3)\n", "permute(0, 2, 1, 3) * 1.01\n", 0),
    (10, "return", "raise NotImplementedError\n    return", 0),
]


@pytest.mark.parametrize("number, old, new, wrong", SLIPS)
def test_one_mistake_costs_one_function(number, old, new, wrong, folder):
    """Also if the others call it by its name in the file, in all three kinds of cases."""
    exercise = exercise_number(number)
    text = read_answer(exercise)
    assert old in text
    exercise.path(folder).write_text(text.replace(old, new, 1), encoding="utf-8")
    result = grade_exercise(exercise, folder, lambda part: None, draw=Draw(5))
    expected = [OK] * len(exercise.checks)
    expected[wrong] = TODO if "NotImplementedError" in new else FAIL
    assert [part.status for part in result.parts] == expected, result.parts

    cases = Assignment({exercise.id: 1}, cases=exercise.checks)
    parts = list(check_private_cases(exercise, folder, cases, Draw(6)))
    parts = [part for part in parts if part.status != RUNNING]
    assert [part.status for part in parts] == expected, parts


@pytest.mark.parametrize(
    "number, cuts, missing",
    [
        # Renamed, everywhere in the file.
        (5, [("attend(", "attention(")], [2]),
        # Written outside its class, and a whole class that was deleted.
        (5, [("class Attention:", "class Heads:")], [0, 3]),
        (11, [("class DecoderSession:", "class Session:")], [1]),
    ],
)
def test_a_missing_function_costs_its_own_points_only(number, cuts, missing, folder):
    exercise = exercise_number(number)
    text = read_answer(exercise)
    for old, new in cuts:
        assert old in text
        text = text.replace(old, new)
    exercise.path(folder).write_text(text, encoding="utf-8")
    result = grade_exercise(exercise, folder, lambda part: None)
    expected = [FAIL if i in missing else OK for i in range(len(exercise.checks))]
    assert [part.status for part in result.parts] == expected, result.parts
    first = list(exercise.checks)[missing[0]].partition(":")[2]
    assert result.sentence.startswith(f"{first} is missing in the file")

    cases = Assignment({exercise.id: 1}, cases=exercise.checks)
    parts = list(check_private_cases(exercise, folder, cases, Draw()))
    parts = [part for part in parts if part.status != RUNNING]
    assert [part.status for part in parts] == expected, parts


@pytest.mark.slow
def test_functions_after_one_that_ends_python_are_checked(folder):
    """In a class: each has its sentence; a file that ends Python when it is imported has none."""
    frames = exercise_number(2)
    text = read_answer(frames).replace("def valid_frames(", "def first(", 1)
    text += "\n\ndef valid_frames(*arguments):\n    import os\n\n    os._exit(3)\n"
    frames.path(folder).write_text(text, encoding="utf-8")
    mask = exercise_number(8)
    mask.path(folder).write_text("import os\nos._exit(4)\n", encoding="utf-8")
    last = exercise_number(10)
    last.path(folder).write_text(read_answer(last), encoding="utf-8")

    limits = Limits(seconds=20, private=(), seed=7)
    results = list(grade_exercises([frames, mask, last], folder, limits))
    assert [part.status for part in results[0].parts] == [OK, FAIL, OK]
    sentence = "valid_frames: it ended Python (exit code 3): an exercise needs no exit"
    assert results[0].sentence == results[0].parts[1].sentence == sentence
    assert "(exit code 4)" in results[1].sentence and not results[1].parts
    assert results[2].status == OK


@pytest.mark.slow
def test_a_crash_beside_the_public_cases_costs_its_own_function(folder, tmp_path):
    """Whoever ends Python for other numbers is wrong; the teacher's other cases still count."""
    exercise = exercise_number(10)
    num_calls = 0

    def count_calls(*arguments):
        nonlocal num_calls
        num_calls += 1
        return package_function("model:cross_entropy")(*arguments)

    collect_answers(exercise, "model:cross_entropy", count_calls)
    text = read_answer(exercise).replace(
        "    logprobs =",
        f"    calls.append(1)\n    if len(calls) > {num_calls}: os._exit(5)\n    logprobs =",
    )
    text = text.replace("    shifted =", "    if start == 77: os._exit(6)\n    shifted =", 1)
    exercise.path(folder).write_text(f"import os\n\ncalls = []\n{text}", encoding="utf-8")
    homework = tmp_path / "homework.py"
    homework.write_text(
        """
def check_start(function, draw):
    import torch
    yield "a start", function(torch.tensor([[1, 2]]), 77, 0)


def check_loss(function, draw):
    import torch
    yield "a loss", function(draw(1, 2, 3, 4), torch.tensor([[1, 2, 3], [0, 1, -100]]))


CASES = {"model:shift_right": check_start, "model:cross_entropy": check_loss}
""",
        encoding="utf-8",
    )

    limits = Limits(seconds=20, private=(), seed=7, assignment=str(homework))
    [result] = grade_exercises([exercise], folder, limits)
    assert [part.status for part in result.parts] == [OK, FAIL, FAIL, OK]
    ends = "it ended Python (exit code {}): an exercise needs no exit"
    assert result.status == FAIL
    assert result.sentence == result.parts[1].sentence == f"cross_entropy: {ends.format(5)}"
    assert result.parts[2].sentence == f"shift_right, the teacher's cases: {ends.format(6)}"


@pytest.mark.slow
def test_the_line_of_a_loop_without_end_is_named_in_a_class(folder):
    exercise = exercise_number(5)
    text = read_answer(exercise).replace("    return weights @ values", "    while True: pass")
    exercise.path(folder).write_text(text, encoding="utf-8")
    [result] = grade_exercises([exercise], folder, Limits(seconds=3, private=(), seed=7))
    assert [part.status for part in result.parts] == [OK, OK, FAIL, OK]
    assert "attend: it took longer than 3 s, and was in attend, line 1" in result.sentence


LEAKS = """
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_grad_enabled(False)
np.seterr(all="raise")
"""
MORE_LEAKS = """
random.seed(1), np.random.seed(1), torch.manual_seed(1)
os.environ["NANOS2T_LEAK"] = "1"
os.environ.pop("PATH")
os.chdir("/")
sys.path.clear()
torch.softmax = torch.nn.functional.gelu = torch.Tensor.sum = len
nanos2t.wav2vec2.attend = nanos2t.decoder.KVCache.append = len
"""
IMPORTS = "import os, random, sys, torch, nanos2t\nimport numpy as np\n"


def read_state() -> list[str]:
    import nanos2t

    functions = [torch.softmax, torch.nn.functional.gelu, torch.Tensor.sum]
    functions += [nanos2t.wav2vec2.attend, nanos2t.decoder.KVCache.append]
    state = [torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()]
    state += [os.environ.get("NANOS2T_LEAK"), os.environ["PATH"], os.getcwd(), sys.path]
    seeds = [random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()]
    return [repr(part) for part in (*state, *functions, *seeds, np.geterr())]


@pytest.mark.parametrize("is_called", [False, True])
def test_what_a_file_sets_is_set_back(is_called, folder):
    """When it is imported and when it is called, so that the package's answers stay right."""
    exercise = exercise_number(8)
    body = "\n".join(f"    {line}" for line in LEAKS.strip().splitlines())
    text = IMPORTS + read_answer(exercise)
    if is_called:
        head, signature, rest = text.partition("def causal_mask(")
        first, line, rest = rest.partition(":\n")
        text = f"{head}{signature}{first}{line}{body}\n{rest}"
    else:
        text += LEAKS + MORE_LEAKS
    exercise.path(folder).write_text(text, encoding="utf-8")
    before = read_state()

    def grade():
        result = grade_exercise(exercise, folder)
        assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
        return result

    result = try_grading(exercise, grade)
    assert result.status == OK, result.sentence
    assert read_state() == before


@pytest.mark.parametrize(
    "patch",
    [
        "np.abs = lambda *arguments: np.zeros(1)",
        "builtins.all = lambda parts: True",
        "np.asarray = lambda value: np.ones((2, 2), bool)",
        "setattr(nanos2t.decoder, 'causal' + '_mask', causal_mask)",
    ],
)
@pytest.mark.parametrize("is_called", [False, True])
def test_functions_that_are_replaced_judge_nobody(patch, is_called, folder):
    """When the file is imported, or each time that the function is called."""
    text = (
        "import builtins\nimport nanos2t\nimport numpy as np\nimport torch\n\n\n"
        "def causal_mask(T, past, device):\n    {}\n    return torch.ones(T, past + T).bool()\n"
        "\n\n{}\n"
    )
    exercise = exercise_number(8)
    text = text.format(patch, "") if is_called else text.format("pass", patch)
    exercise.path(folder).write_text(text, encoding="utf-8")
    with keep_process():
        result = grade_exercise(exercise, folder)
        assert result.status == FAIL
        cases = Assignment({exercise.id: 1}, cases=exercise.checks)
        parts = list(check_private_cases(exercise, folder, cases, Draw(6)))
        assert parts[-1].status == FAIL


@pytest.mark.parametrize(
    "number, old, new, sentence",
    [
        # An exception that a mistake has as well, for another reason.
        (5, "    scores = ", "    torch.ones(10**15)\n    scores = ", "can't allocate memory"),
        (8, "    rows = ", "    raise AssertionError('Torch not compiled with CUDA enabled')\n"
            "    rows = ", "4 new tokens, 0 past ones: it asks for a GPU, and there is none"),
        (8, "columns <= rows + past", "(columns <= rows + past).numpy()",
            "causal_mask, 4 new tokens, 0 past ones: it returned an array of NumPy, expected a"),
        (10, "return shifted", "return shifted.numpy()", "it returned an array of NumPy, expected"),
        (8, "columns <= rows + past", "None", "it returned None, expected one array"),
        (8, "(T, past, device)", "(past, T, device)", "it returned an array that is empty, (0, 4)"),
        # The line is the student's, not that of Python's own module.
        (8, "    rows = ", "    import json.decoder\n    json.loads('x')\n    rows = ",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (line 6)"),
    ],
)  # fmt: skip
def test_what_comes_from_outside_has_no_name_of_a_mistake(number, old, new, sentence, folder):
    exercise = exercise_number(number)
    text = read_answer(exercise)
    assert old in text
    exercise.path(folder).write_text(text.replace(old, new, 1), encoding="utf-8")
    result = grade_exercise(exercise, folder)
    assert result.status == FAIL
    assert sentence in result.sentence
    assert "looks like" not in result.sentence
    # An error of the grader's own has no lines that would help.
    assert "NotTensorError" not in result.detail
