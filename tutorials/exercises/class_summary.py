"""What a class got wrong: which mistakes, how often, by whom; and who has the same code."""

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from exercises.course import select_exercises
from exercises.gradebook import Student
from exercises.grading import FAIL, TODO
from exercises.targets import short_name

# Characters of code. Right answers that are short are often the same: what several have must be
# longer, all together.
MIN_LENGTH = 1000
# Of a file without functions that Python can read not all counts: the course has written most.
MAX_LENGTH = 600


@dataclass
class Mistake:
    """A sentence of the grader, and the names of those to whom it was said."""

    number: int  # of the exercise
    sentence: str
    names: list[str] = field(default_factory=list)


def count_mistakes(students: list[Student]) -> list[Mistake]:
    """Return the mistakes of a class, the most frequent first.

    What counts is the first wrong function of each exercise: those after it may be wrong for the
    same reason. Sentences that differ in nothing but a line number are one mistake.
    """
    mistakes: dict[tuple[int, str], Mistake] = {}
    for student in students:
        for mark in student.marks:
            if mark.result.status != FAIL:
                continue
            number = int(mark.result.id[2:])
            sentence = re.sub(r" \([^()]*line \d+\)", "", mark.result.sentence)
            mistake = mistakes.setdefault((number, sentence), Mistake(number, sentence))
            mistake.names.append(student.name)
    return sorted(mistakes.values(), key=lambda mistake: (-len(mistake.names), mistake.number))


def own_code(exercise_id: str, data: bytes) -> str:
    """Return the functions of an exercise that a student has written, without comments.

    A file that Python cannot read is cut short.
    """
    [exercise] = select_exercises([exercise_id])
    names = {short_name(target) for target in exercise.checks}
    try:
        functions = list_functions(ast.parse(data))
        code = "\n".join(text for name, text in functions if name in names)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        code = ""
    if not code:
        text = data.decode(errors="replace")
        code = re.sub(r"#[^\n]*|\s+", "", text)[:MAX_LENGTH]
    return code


def list_functions(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of functions and methods that are written, without docstrings."""
    places = [("", node) for node in tree.body]
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef):
            places += [(f"{owner.name}.", node) for node in owner.body]
    for prefix, node in places:
        if not isinstance(node, ast.FunctionDef):
            continue
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        # A stub ends so. Others may raise the same for what is not part of an exercise.
        if "raise NotImplementedError" not in ast.unparse(node.body[-1]):
            yield prefix + node.name, ast.unparse(node)


def find_same_code(students: list[Student]) -> list[tuple[list[str], list[int]]]:
    """Return whose code is the same, but for spaces and comments, and in which exercises."""
    owners: dict[tuple[int, str], list[str]] = {}
    lengths = {}
    for student in students:
        for mark in student.marks:
            if mark.result.status == TODO or mark.result.id not in student.files:
                continue
            code = own_code(mark.result.id, student.files[mark.result.id])
            key = int(mark.result.id[2:]), hashlib.sha256(code.encode()).hexdigest()
            owners.setdefault(key, []).append(student.name)
            lengths[key] = len(code)

    shared: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for key, names in owners.items():
        if len(names) > 1:
            shared.setdefault(tuple(names), []).append(key)
    groups = []
    for names, keys in shared.items():
        if sum(lengths[key] for key in keys) >= MIN_LENGTH:
            groups.append((list(names), sorted(number for number, _ in keys)))
    return groups
