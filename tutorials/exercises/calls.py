"""Call a student's function for each case of a check."""

import re
from collections.abc import Callable

import numpy as np
import torch

from exercises.comparison import Answer, Raised, as_array, flatten_answer, relative_errors
from exercises.exercise import Exercise


class Probe:
    """A student's function, called in its place.

    An exception counts as a result: the call returns Raised, and `error` keeps the first one.
    `changed` tells whether a call has changed one of its arguments.
    """

    def __init__(self, function: Callable):
        self.function = function
        self.changed = False
        self.error = None

    def __call__(self, *arguments, **named):
        arrays = [part for part in arguments if isinstance(part, (torch.Tensor, np.ndarray))]
        before = [as_array(array).copy() for array in arrays]
        try:
            with torch.no_grad():
                result = self.function(*arguments, **named)
        except (Exception, SystemExit) as error:
            if is_unwritten(error):
                raise
            self.error = self.error or error
            return Raised(error)

        for array, old in zip(arrays, before):
            if relative_errors(as_array(array), old).any():
                self.changed = True
        return result


def is_unwritten(error: BaseException) -> bool:
    """Return whether an exception is a stub's NotImplementedError("ex05")."""
    return isinstance(error, NotImplementedError) and bool(re.fullmatch(r"(ex\d\d)?", str(error)))


def collect_answers(
    exercise: Exercise, target: str, function: Callable
) -> tuple[dict[str, Answer], Probe]:
    """Run a check and return {case: flattened answer} and the probe that made the calls.

    NotImplementedError: a stub that is needed is not written yet.
    """
    probe = Probe(function)
    answers = {}
    with np.errstate(all="ignore"):
        for case, result in exercise.checks[target](probe):
            answers[case] = flatten_answer(result)
    return answers, probe
