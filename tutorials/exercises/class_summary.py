"""What a class got wrong: which mistakes, how often, by whom; and who has the same code."""

import hashlib
import re
from dataclasses import dataclass, field

from exercises.gradebook import Student
from exercises.grading import FAIL, TODO

# Characters of code. Right answers that are short are often the same: what several have must be
# longer, all together. Of one exercise not all count: modules have other functions as well.
MIN_LENGTH = 1500
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


def find_same_code(students: list[Student]) -> list[tuple[list[str], list[int]]]:
    """Return whose code is the same, but for spaces and comments, and in which exercises."""
    owners: dict[tuple[int, str], list[str]] = {}
    lengths = {}
    for student in students:
        for mark in student.marks:
            if mark.result.status == TODO or mark.result.id not in student.files:
                continue
            code = re.sub(rb"#[^\n]*|\s+", b"", student.files[mark.result.id])
            key = int(mark.result.id[2:]), hashlib.sha256(code).hexdigest()
            owners.setdefault(key, []).append(student.name)
            lengths[key] = min(len(code), MAX_LENGTH)

    shared: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for key, names in owners.items():
        if len(names) > 1:
            shared.setdefault(tuple(names), []).append(key)
    groups = []
    for names, keys in shared.items():
        if sum(lengths[key] for key in keys) >= MIN_LENGTH:
            groups.append((list(names), sorted(number for number, _ in keys)))
    return groups
