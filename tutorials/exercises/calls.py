"""Call a student's function for each case of a check."""

import contextlib
import io
import re
from collections.abc import Callable

import numpy as np
import torch

from exercises.comparison import Answer, answer_distance, flatten_answer
from exercises.course import EXERCISES
from exercises.exercise import RAISED, Exercise, Raised, make_readable
from exercises.inputs import STORED, Draw
from exercises.state import COMPARING, keep_functions, keep_settings
from exercises.targets import package_function


def returns_tensor(target: str) -> bool:
    """Return whether the package's function says that its result is a tensor."""
    returned = package_function(target).__annotations__.get("return")
    return returned in (torch.Tensor, "Tensor")


# Before a student's functions, which say what they like, take their places.
TARGETS = [target for exercise in EXERCISES for target in exercise.checks]
WITH_TENSORS = set(filter(returns_tensor, TARGETS))


class NotTensorError(TypeError):
    """A function whose result is a tensor has returned an array of NumPy."""


class Output(io.StringIO):
    """What a function prints. A loop without end must not fill the memory: there is a limit."""

    def write(self, text: str) -> int:
        if self.tell() < 10_000:
            super().write(text[:10_000])
        return len(text)


class Probe:
    """A student's function, called in its place.

    An exception counts as a result: the call returns Raised. `errors` has the first exception of
    each case, and `printed` what the function printed in it. `changed` tells whether a call has
    changed one of its arguments. `draw` is where the arguments come from. With `is_tensor` an array
    of NumPy is no result.
    """

    def __init__(self, function: Callable, draw: Draw = STORED, is_tensor: bool = False):
        self.function = function
        self.draw = draw
        self.is_tensor = is_tensor
        self.changed = False
        self.errors: dict[str, BaseException] = {}
        self.printed: dict[str, str] = {}
        # What has ended the check before its last case
        self.failure: BaseException | None = None
        # Those of the case that runs.
        self.error: BaseException | None = None
        self.output = ""

    def __call__(self, *arguments, **named):
        before = flatten_answer(arguments)
        try:
            result = self.call_function(*arguments, **named)
            if self.is_tensor and isinstance(result, (np.ndarray, np.generic)):
                raise NotTensorError
        except RAISED as error:
            if is_unwritten(error):
                raise
            error = make_readable(error)
            self.error = self.error or error
            return Raised(error)

        # Also what lies in a tuple, a dict or Beams.
        if answer_distance(flatten_answer(arguments), before) > 0:
            self.changed = True
        return result

    def call_function(self, *arguments, **named):
        """Call the function, and keep what it prints. Gradients are for arguments that ask."""
        tensors = [part for part in arguments if isinstance(part, torch.Tensor)]
        with_gradient = any(tensor.requires_grad for tensor in tensors)
        output = Output()
        try:
            with contextlib.redirect_stdout(output), keep_settings():
                torch.set_grad_enabled(with_gradient)
                return self.function(*arguments, **named)
        finally:
            self.output += output.getvalue()
            print(output.getvalue(), end="")

    def end_case(self, case: str) -> None:
        """Note that what was called since the last case belongs to this one."""
        if self.error:
            self.errors[case] = self.error
        self.printed[case] = self.output
        self.error = None
        self.output = ""

    def error_of(self, case: str, answers: dict[str, Answer]) -> BaseException | None:
        """Return the exception of a case, or of the check if the case has no answer, or None."""
        if case in answers:
            return self.errors.get(case)
        return self.failure


def is_unwritten(error: BaseException) -> bool:
    """Return whether an exception is a stub's NotImplementedError("ex05")."""
    return type(error) is NotImplementedError and bool(re.fullmatch(r"(ex\d\d)?", str(error)))


def collect_answers(
    exercise: Exercise,
    target: str,
    function: Callable,
    draw: Draw = STORED,
    is_students: bool = False,
) -> tuple[dict[str, Answer], Probe]:
    """Run a check and return {case: flattened answer} and the probe that made the calls.

    A check may fail at a result that it does not expect. If the function `is_students`, that is the
    function's failure, and the cases from there on have no answer.

    NotImplementedError: a stub that is needed is not written yet.
    """
    probe = Probe(function, draw, target in WITH_TENSORS)
    answers = {}
    with np.errstate(all="ignore"), keep_functions(COMPARING) as put_back:
        try:
            for case, result in exercise.checks[target](probe, draw):
                put_back()
                answers[case] = flatten_answer(result)
                probe.end_case(case)
        except Exception as error:
            if not is_students or is_unwritten(error):
                raise
            probe.failure = probe.error or make_readable(error)
    return answers, probe
