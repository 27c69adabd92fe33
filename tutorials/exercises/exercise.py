"""What an exercise consists of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from exercises.inputs import Draw

Check = Callable[[Callable, Draw], Iterator[tuple[str, object]]]
Law = tuple[Callable[[Callable], bool], str]

# What a student's code may raise: with the others of these nothing else would be graded.
RAISED = (Exception, SystemExit, KeyboardInterrupt, GeneratorExit)


@dataclass(frozen=True)
class Exercise:
    """One exercise: one or more functions of the package to write again.

    `checks` has a check for each function. Its key, the target, names the function by module and
    path: "wav2vec2:Attention.split_heads" is a method in nanos2t/wav2vec2.py. The check is a
    generator that calls the student's function with random inputs, and yields (description of the
    case, result).

    `laws` has a test and a sentence for some targets. If the results of a function are wrong, the
    test is called with the function, and the sentence is shown if the test returns False.
    """

    name: str
    title: str
    task: str
    imports: str
    checks: dict[str, Check]
    hints: tuple[str, str, str]
    laws: dict[str, Law]
    minutes: int = 30  # for a student who has read the lesson
    difficulty: int = 2  # 1 to 3
    lesson: str = ""  # the file in tutorials/ to read first, without .py

    @property
    def id(self) -> str:
        return self.name.partition("_")[0]

    @property
    def number(self) -> int:
        return int(self.id[2:])

    def path(self, folder: Path) -> Path:
        """Return where a folder has the file of this exercise."""
        return folder / f"{self.name}.py"


class ExerciseError(Exception):
    """What is wrong with a student's file: one sentence, and optional lines of detail."""

    def __init__(self, sentence: str, detail: str = ""):
        super().__init__(sentence)
        self.sentence = sentence
        self.detail = detail


@dataclass
class Raised:
    """The result of a call that raised an exception."""

    error: BaseException


def make_readable(error: BaseException) -> BaseException:
    """Return an exception, or another in its place if it has no text: a class may have a slip."""
    try:
        str(error)
    except Exception:
        text = f"{type(error).__name__}, whose __str__ fails as well"
        return RuntimeError(text).with_traceback(error.__traceback__)
    return error


class Facts(dict):
    """What must hold of a result, as {"the result is a view": True}, where numbers do not tell."""


def type_fact(result: object, dtype: object) -> Facts:
    """Return whether a result, or all of its parts, has this type of numbers."""
    parts = result if isinstance(result, (tuple, list)) else [result]
    is_kept = all(getattr(part, "dtype", None) == dtype for part in parts)
    return Facts({"the numbers keep their type": is_kept})
