"""What a class got wrong: which mistakes, how often, by whom."""

import re
from dataclasses import dataclass, field

from exercises.gradebook import Student
from exercises.grading import FAIL


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
            sentence = re.sub(r" \(line \d+\)", "", mark.result.sentence)
            mistake = mistakes.setdefault((number, sentence), Mistake(number, sentence))
            mistake.names.append(student.name)
    return sorted(mistakes.values(), key=lambda mistake: (-len(mistake.names), mistake.number))
