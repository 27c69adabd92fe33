# pytest tests/tutorials/test_clauses.py
"""Every clause of what the exercises ask is checked: who does not obey it is caught."""

import pytest
from exercises import folders
from exercises.comparison import is_close, mistake_name, read_key
from exercises.course import EXERCISES
from helpers.clauses import read_clauses, read_demands

each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


def caught_by(exercise) -> dict[str, list[set[str]]]:
    """Return {mistake: the cases that catch it, once for each way to make it}."""
    caught = {}
    for target in exercise.checks:
        right, wrong = read_key(exercise, target)
        for key, answers in wrong.items():
            cases = {case for case in right if not is_close(answers[case], right[case])}
            if cases == set(right):
                cases = {"all cases"}
            caught.setdefault(mistake_name(key), []).append(cases)
    return caught


@each
def test_clauses_are_what_the_stub_says(exercise):
    """All of it, once and in order."""
    stub = exercise.path(folders.STUBS).read_text(encoding="utf-8")
    text = read_demands(stub)
    for clause in read_clauses(exercise):
        assert text.startswith(clause.text), f"{clause.text!r}, but the stub has {text[:100]!r}"
        text = text.removeprefix(clause.text).lstrip()
    assert text == ""


@each
def test_each_clause_has_a_mistake_that_only_its_cases_catch(exercise):
    caught = caught_by(exercise)
    for clause in read_clauses(exercise):
        assert clause.is_background == (not clause.mistakes), clause.text
        for mistake, cases in clause.mistakes.items():
            assert cases in caught[mistake], (clause.text, mistake, caught[mistake])


@each
def test_a_case_that_alone_catches_a_mistake_belongs_to_a_clause(exercise):
    """Whoever adds a case for a wrong answer that passed says which clause it does not obey."""
    cases_of_clauses = [
        cases for clause in read_clauses(exercise) for cases in clause.mistakes.values()
    ]
    for mistake, ways in caught_by(exercise).items():
        for cases in ways:
            assert len(cases) > 1 or cases in cases_of_clauses, (mistake, cases)
