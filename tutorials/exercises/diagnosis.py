"""Say in one sentence what is wrong with an answer."""

import re
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from exercises.calls import Probe, collect_answers
from exercises.comparison import (
    TOLERANCE,
    Answer,
    answer_distance,
    is_close,
    kind_of,
    relative_errors,
)
from exercises.exercise import Exercise

HERE = Path(__file__).parent


def match_mistake(
    answers: dict[str, Answer], case: str, right: dict[str, Answer], wrong: dict[str, dict]
) -> str:
    """Return the sentence of the known mistake that was made, or "" for any other.

    A mistake matches if all its answers are the student's. Failing that, one also matches whose
    answer to `case`, the first that is wrong, is the student's, if no other mistake gives the same
    answer.
    """
    for sentence, mistaken in wrong.items():
        if all(is_close(answers[other], mistaken[other]) for other in right):
            return sentence

    if raises(answers[case]):
        return ""
    in_this_case = []
    for sentence, mistaken in wrong.items():
        differs = answer_distance(mistaken[case], right[case]) > 0
        if differs and is_close(answers[case], mistaken[case]):
            in_this_case.append(sentence)
    if len(in_this_case) == 1:
        return in_this_case[0]
    return ""


def raises(answer: Answer) -> str:
    """Return " raises ValueError" for an answer that is this exception, or ""."""
    return next((name for name in answer if " raises " in name), "")


def describe_difference(answer: Answer, expected: Answer, probe: Probe, where: str) -> str:
    """Return what is wrong with exceptions, types, shapes or finiteness, or "" if nothing is."""
    if raises(answer):
        if raises(answer) in expected or not probe.error:
            return ""
        return explain_exception(probe.error, where)[0]
    if raises(expected):
        return f"{where}: it should {raises(expected).strip().replace('raises', 'raise')}"
    if list(answer) != list(expected):
        sentence = f"{where}: it returned {list_parts(answer)}, expected {list_parts(expected)}"
        is_none = any(name.endswith("is None") for name in answer)
        return sentence + ", is there a return?" if is_none else sentence

    for name, array in answer.items():
        problem = describe_array(array, expected[name])
        if problem:
            return f"{where}: result{name} has {problem}"
    return ""


def describe_array(array: np.ndarray, expected: np.ndarray) -> str:
    """Return what is wrong with the shape, the kind of numbers or their finiteness, or ""."""
    if array.shape != expected.shape:
        return f"shape {array.shape}, expected {expected.shape}"
    if kind_of(array) != kind_of(expected):
        return f"{kind_of(array)} ({array.dtype}), expected {kind_of(expected)}"
    if kind_of(array) == "numbers":
        where_finite = np.isfinite(expected)
        if not np.isfinite(array[where_finite]).all():
            first = np.argwhere(~np.isfinite(array))[0].tolist()
            return f"NaN or infinity, first at {first}"
    return ""


def list_parts(answer: Answer) -> str:
    """Return the names of the first four parts of an answer."""
    if not answer:
        return "nothing"
    names = [name.strip() or "one array" for name in answer]
    text = ", ".join(names[:4])
    return text + " ..." if len(names) > 4 else text


def find_broken_law(
    exercise: Exercise, target: str, function: Callable, answers: dict[str, Answer]
) -> str:
    """Return what holds for every right answer but not for this function, or ""."""
    again, _ = collect_answers(exercise, target, function)
    if not all(is_close(again[case], answers[case]) for case in answers):
        return "the same call gives another result each time"
    if target not in exercise.laws:
        return ""

    test, sentence = exercise.laws[target]
    try:
        with torch.no_grad():
            holds = test(function)
    except Exception:
        # The check calls the same function, so its exceptions are reported from there.
        return ""
    return "" if holds else sentence


def describe_largest_error(answer: Answer, expected: Answer, where: str) -> str:
    """Return how much of the part with the largest error is wrong, and the place of that error."""
    errors = {name: relative_errors(answer[name], expected[name]) for name in expected}
    name = max(errors, key=lambda name: errors[name].max(initial=0.0))

    worst = np.unravel_index(errors[name].argmax(), errors[name].shape)
    share = 100 * float((errors[name] > TOLERANCE).mean())
    place = f" at {list(map(int, worst))}" if worst else ""
    value = answer[name][worst].item()
    wanted = expected[name][worst].item()
    return (
        f"{where}: {share:.0f} % of result{name} is wrong, "
        f"worst{place}: {value:.6g}, expected {wanted:.6g}"
    )


def explain_exception(error: BaseException, where: str) -> tuple[str, str]:
    """Return a sentence about an exception, and the student's part of its traceback."""
    if isinstance(error, RecursionError):
        sentence = "it calls itself without end, because it runs in place of the package's function"
        return f"{where}: {sentence}", ""

    detail = own_traceback(error)
    message = " ".join(str(error).split())[:200]
    sentence = f"{where}: {type(error).__name__}: {message}"
    numbers = re.findall(r"line (\d+)", detail)
    if numbers:
        sentence += f" (line {numbers[-1]})"
    return sentence, detail


def own_traceback(error: BaseException) -> str:
    """Return the end of a traceback without the frames of the grader and of other packages."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if path.parent != HERE and "site-packages" not in path.parts:
            lines.append(f"{path.name}, line {frame.lineno}, in {frame.name}: {frame.line}")
    return "\n".join([*lines[-6:], f"{type(error).__name__}: {error}"])
