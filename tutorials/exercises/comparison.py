"""Make any result of a function comparable, and compare it with the stored ones in keys/.

A flattened answer is {name of a part: array}. The names are those of Python: [0] in a tuple,
.tokens in a dataclass, ['key'] in a dict; a result that is one array has the name "". A fact has
its own words as its name, after FACT.
"""

import functools
import json
import re
from dataclasses import fields, is_dataclass

import numpy as np
import torch

from exercises import folders
from exercises.exercise import Exercise, Facts, Raised

Answer = dict[str, np.ndarray]

# Relative to 1 + the size of the number. Known wrong answers are at least 100 times as far away.
TOLERANCE = 1e-5
MAX_DEPTH = 6  # of lists in lists; a right answer has at most four
ARRAYS = (torch.Tensor, np.ndarray, np.generic, bool, int, float)
FACT = " fact: "
KINDS = {"b": "bool", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}


def as_array(value: object) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value)


def describe_tensor(tensor: torch.Tensor) -> str:
    """Return what a tensor is of which NumPy can make no array, such as one of bfloat16."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided:
        kind = str(tensor.layout).removeprefix("torch.")
    elif tensor.device.type == "meta":
        kind = "no numbers, on the device meta"
    return f"a tensor of {kind}"


def kind_of(array: np.ndarray) -> str:
    return KINDS.get(array.dtype.kind, "other")


def flatten_answer(value: object, name: str = "", depth: int = 0) -> Answer:
    """Return a result as arrays by name. A part that is no array becomes a name without numbers.

    So does what lies deeper than any result: a list may even hold itself.
    """
    nothing = np.zeros(0)
    if isinstance(value, ARRAYS):
        try:
            # A copy: the next call may write into the same memory.
            array = as_array(value).copy()
        except (TypeError, RuntimeError):
            return {f"{name} is {describe_tensor(value)}": nothing}
        if array.size == 0:
            return {f"{name} is empty, {array.shape}": nothing}
        return {name: array}
    if isinstance(value, Raised):
        return {f"{name} raises {type(value.error).__name__}": nothing}
    if value is None:
        return {f"{name} is None": nothing}
    is_object = is_dataclass(value) and not isinstance(value, type)
    has_parts = is_object or isinstance(value, (dict, tuple, list))
    if not has_parts or depth == MAX_DEPTH:
        return {f"{name} is {type(value).__name__}": nothing}

    arrays = {}
    for part_name, part in named_parts(value).items():
        arrays |= flatten_answer(part, name + part_name, depth + 1)
    return arrays


def named_parts(value: object) -> dict[str, object]:
    """Return the parts of facts, a dataclass, a dict, a tuple or a list."""
    if isinstance(value, Facts):
        return {FACT + fact: holds for fact, holds in value.items()}
    if is_dataclass(value):
        return {f".{field.name}": getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {f"[{key!r}]": value[key] for key in sorted(value, key=str)}
    return {f"[{i}]": part for i, part in enumerate(value)}


def relative_errors(result: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return |result - expected| / (1 + |expected|), infinite where only one of them is finite.

    Whole numbers are right or wrong, however large they are: theirs is |result - expected|.
    """
    is_whole = kind_of(expected) == "whole numbers"
    result = result.astype(float)
    expected = expected.astype(float)
    with np.errstate(invalid="ignore"):
        equal = (result == expected) | (np.isnan(result) & np.isnan(expected))
        scales = 1.0 if is_whole else 1 + np.abs(expected)
        distances = np.abs(result - expected) / scales
    distances = np.where(np.isfinite(distances), distances, np.inf)
    return np.where(equal, 0.0, distances)


def answer_distance(answer: Answer, expected: Answer) -> float:
    """Return the largest relative error, infinite if names, shapes or kinds of numbers differ."""
    if list(answer) != list(expected):
        return np.inf

    largest = 0.0
    for name, array in answer.items():
        if array.shape != expected[name].shape or kind_of(array) != kind_of(expected[name]):
            return np.inf
        largest = max(largest, relative_errors(array, expected[name]).max(initial=0.0))
    return largest


def is_close(answer: Answer, expected: Answer) -> bool:
    return answer_distance(answer, expected) <= TOLERANCE


def read_key(
    exercise: Exercise, target: str
) -> tuple[dict[str, Answer], dict[str, dict[str, Answer]]]:
    """Return {case: right answer} and {sentence: {case: the wrong answer that it describes}}.

    A key stores a wrong answer for the cases in which it differs from the right one.
    """
    return parse_key(folders.read_key_text(exercise.id), target)


@functools.lru_cache(maxsize=32)  # whoever grades a class reads each key many times
def parse_key(text: str, target: str) -> tuple[dict[str, Answer], dict[str, dict[str, Answer]]]:
    stored = {}
    for sentence, cases in json.loads(text)[target].items():
        stored[sentence] = {case: read_arrays(parts) for case, parts in cases.items()}
    right = stored.pop("")
    wrong = {sentence: right | cases for sentence, cases in stored.items()}
    return right, wrong


def read_arrays(parts: dict[str, list]) -> Answer:
    return {name: np.asarray(numbers) for name, numbers in parts.items()}


def mistake_name(key: str) -> str:
    """Return the sentence of a mistake. A key ends with [2], [3] ... for other ways to make it."""
    return re.sub(r" \[\d+\]$", "", key)
