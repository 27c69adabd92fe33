"""Say in one sentence what is wrong with an answer."""

import contextlib
import io
import re
import traceback
from pathlib import Path

import numpy as np
import torch

from exercises.calls import NotTensorError, Probe, collect_answers
from exercises.comparison import (
    FACT,
    TOLERANCE,
    Answer,
    is_close,
    kind_of,
    mistake_name,
    relative_errors,
)
from exercises.exercise import Exercise
from exercises.targets import short_name

HERE = Path(__file__).parent
STDLIB = Path(traceback.__file__).parent
LIKELY = "looks like: "
# Exceptions whose names say little to a student.
IN_PLAIN_WORDS = {
    SystemExit: "it ends Python: take out exit()",
    EOFError: "it waits for what somebody types: take out input()",
    NotTensorError: "it returned an array of NumPy, expected a tensor",
}
NO_GPU = re.compile(
    "not compiled with CUDA|no NVIDIA|No CUDA GPUs|MPS backend|PyTorch is not linked"
)
# What follows from the computer, or from a rule of the grader, and from no known mistake.
OUTSIDE = re.compile(f"{NO_GPU.pattern}|can't allocate memory|which is refused")
NOT_SIMILAR = (0.0, 0)


def match_mistake(answers: dict[str, Answer], right: dict[str, Answer], wrong: dict) -> str:
    """Return the sentence of the known mistake that was made, or "" for any other.

    The answers to all cases must be those of the mistake. If it shows in exceptions alone, which
    have many causes, or if only some answers are equal, the sentence begins with LIKELY.
    """
    names = set()
    for key, mistaken in wrong.items():
        if all(is_close(answers.get(case, {}), mistaken[case]) for case in right):
            shown = [case for case in right if not is_close(mistaken[case], right[case])]
            new_errors = [not raises(right[case]) for case in shown]
            if not all(raises(mistaken[case]) for case in shown) or not any(new_errors):
                return mistake_name(key)
            names.add(mistake_name(key))
    if names:
        return LIKELY + names.pop() if len(names) == 1 else ""
    name = match_kind_of_case(answers, right, wrong)
    if name:
        return name

    similarities = {}
    for key, mistaken in wrong.items():
        name = mistake_name(key)
        similarity = compare_mistake(answers, right, mistaken)
        similarities[name] = max(similarity, similarities.get(name, NOT_SIMILAR))
    best = max(similarities.values(), default=NOT_SIMILAR)
    names = [name for name, similarity in similarities.items() if similarity == best]
    if best[0] >= 0.5 and len(names) == 1:
        return LIKELY + names[0]
    return ""


def name_mistake(
    answers: dict[str, Answer],
    right: dict[str, Answer],
    wrong: dict,
    error: BaseException | None,
) -> str:
    """Return the known mistake of wrong answers, of which the first may be an exception, or "".

    Without memory, without a GPU, or after a refusal there is nothing to say about a formula.
    """
    if isinstance(error, MemoryError) or OUTSIDE.search(str(error)):
        return ""
    return match_mistake(answers, right, wrong)


def match_kind_of_case(answers: dict[str, Answer], right: dict[str, Answer], wrong: dict) -> str:
    """Return the mistake that was made in cases of one kind, such as pre_norm=True, alone, or "".

    The kind is what the names of cases begin with, up to a comma.
    """
    where_wrong = {case for case in right if not is_close(answers.get(case, {}), right[case])}
    kinds = {case.partition(",")[0] for case in where_wrong}
    kind = kinds.pop()
    cases = [case for case in right if case.partition(",")[0] == kind]
    if kinds or len(cases) < 2:
        return ""

    for key, mistaken in wrong.items():
        shown = {case for case in cases if not is_close(mistaken[case], right[case])}
        is_made = all(is_close(answers.get(case, {}), mistaken[case]) for case in shown)
        is_raised = any(raises(answers.get(case, {})) for case in shown)
        if shown == where_wrong and is_made and not is_raised:
            # Others may be the same in these cases: then they are as true.
            return f"{kind} only: {mistake_name(key)}"
    return ""


def compare_mistake(
    answers: dict[str, Answer], right: dict[str, Answer], mistaken: dict[str, Answer]
) -> tuple[float, int]:
    """Return in what share of the wrong answers, and in how many, a mistake was made.

    Both are 0 if the answer to a case in which it shows is right: then it is another mistake.
    """
    num_wrong = 0
    num_same = 0
    for case, expected in right.items():
        answer = answers.get(case, {})
        # Whoever made this mistake alone would have had an answer.
        if raises(answer) and not raises(mistaken[case]):
            return NOT_SIMILAR
        if is_close(mistaken[case], expected):
            num_wrong += not is_close(answer, expected)
            continue
        if is_close(answer, expected):
            return NOT_SIMILAR
        num_wrong += 1
        if is_close(answer, mistaken[case]) and not raises(answer):
            num_same += 1
    return num_same / max(1, num_wrong), num_same


def raises(answer: Answer) -> str:
    """Return "raises ValueError" for an answer that is this exception, or ""."""
    for name in answer:
        _, found, error = name.rpartition(" raises ")
        if found:
            return f"raises {error}"
    return ""


def diagnose(
    exercise: Exercise,
    target: str,
    probe: Probe,
    answers: dict[str, Answer],
    case: str,
    expected: Answer,
) -> str:
    """Return a sentence about a wrong answer that no known mistake gives."""
    where = f"{short_name(target)}, {case}"
    answer = answers.get(case, {})
    sentence = describe_difference(answers, expected, probe, case, where)
    if sentence:
        return sentence
    if probe.changed:
        return "it changes its arguments in place: work on a copy"

    # What the function prints when it is called again was printed before.
    with contextlib.redirect_stdout(io.StringIO()):
        sentence = find_broken_law(exercise, target, probe, answers)
    return sentence or describe_largest_error(answer, expected, where)


def describe_difference(
    answers: dict[str, Answer], expected: Answer, probe: Probe, case: str, where: str
) -> str:
    """Return what is wrong with exceptions, types, shapes or finiteness, or "" if nothing is."""
    answer = answers.get(case, {})
    error = probe.error_of(case, answers)
    if error and (case not in answers or raises(answer) and raises(answer) != raises(expected)):
        return explain_exception(error, where)[0]
    if raises(expected) and not raises(answer):
        return f"{where}: it should {raises(expected).replace('raises', 'raise')}"
    if list(answer) != list(expected):
        return describe_parts(answer, expected, probe.printed.get(case, ""), where)

    for name, array in answer.items():
        _, is_fact, fact = name.rpartition(FACT)
        if is_fact and not is_close({"": array}, {"": expected[name]}):
            return f"{where}: this should hold, and does not: {fact}"
        problem = describe_array(array, expected[name])
        if problem:
            return f"{where}: result{name} has {problem}"
    return ""


def describe_parts(answer: Answer, expected: Answer, printed: str, where: str) -> str:
    """Return what came back in place of the parts that are expected."""
    sentence = f"{where}: it returned {list_parts(answer)}, expected {list_parts(expected)}"
    if list(answer) != [" is None"]:
        return sentence
    if printed:
        return f"{sentence}: print shows a result, return gives it back"
    return f"{sentence}, is there a return?"


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
    names = [name.removeprefix(FACT).strip() or "one array" for name in answer]
    # What has no numbers says what it is: " is None", " is empty, (0, 4)".
    names = [re.sub("^is (?=empty)", "an array that is ", name) for name in names]
    names = [name.removeprefix("is ") for name in names]
    text = ", ".join(names[:4])
    return text + " ..." if len(names) > 4 else text


def find_broken_law(
    exercise: Exercise, target: str, probe: Probe, answers: dict[str, Answer]
) -> str:
    """Return what holds for every right answer but not for this function, or ""."""
    again, _ = collect_answers(exercise, target, probe.function, probe.draw, is_students=True)
    if not all(is_close(again.get(case, {}), answers[case]) for case in answers):
        return (
            "the same call gives another result each time: is there dropout, or other randomness?"
        )
    if target not in exercise.laws:
        return ""

    test, sentence = exercise.laws[target]
    try:
        with torch.no_grad():
            holds = test(probe.function)
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
    value = format_number(answer[name][worst])
    wanted = format_number(expected[name][worst])
    return (
        f"{where}: {share:.0f} % of result{name} is wrong, worst{place}: {value}, expected {wanted}"
    )


def format_number(number: np.generic) -> str:
    """Return all digits of a whole number, six of any other."""
    if kind_of(number) == "whole numbers":
        return str(number.item())
    return f"{number.item():.6g}"


def explain_exception(error: BaseException, where: str) -> tuple[str, str]:
    """Return a sentence about an exception, and the student's part of its traceback."""
    if isinstance(error, RecursionError):
        sentence = "it calls itself without end"
        return f"{where}: {sentence}; a call of the package's function also calls it", ""

    detail = own_traceback(error)
    message = " ".join(str(error).split())[:200]
    plain = IN_PLAIN_WORDS.get(type(error), f"{type(error).__name__}: {message}")
    if isinstance(error, ModuleNotFoundError) or "relative import" in message:
        plain += ": what is not Python's, torch's, numpy's or the package's belongs into this file"
    if NO_GPU.search(message):
        plain = "it asks for a GPU, and there is none: use the device of the arguments"
    sentence = f"{where}: {plain}"
    numbers = re.findall(r", line (\d+), in ", detail)
    if numbers:
        sentence += f" (line {numbers[-1]})"
    return sentence, detail


def own_traceback(error: BaseException) -> str:
    """Return the end of a traceback without the frames of the grader, Python and packages."""
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        is_python = STDLIB in path.parents or frame.filename.startswith("<frozen")
        if not is_python and path.parent != HERE and "site-packages" not in path.parts:
            lines.append(f"{path.name}, line {frame.lineno}, in {frame.name}: {frame.line}")
    if not lines and type(error) in IN_PLAIN_WORDS:
        return ""
    return "\n".join([*lines[-6:], f"{type(error).__name__}: {error}"])
