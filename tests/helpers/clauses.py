"""What the stubs of the exercises ask, clause by clause, and the mistakes of who does not obey."""

import ast
from dataclasses import dataclass, field

from exercises import folders
from exercises.exercise import Exercise

BACKGROUND = "-"


@dataclass
class Clause:
    """A piece of a stub's text, and {a mistake: the cases that catch it}.

    A piece that asks nothing that could be checked is background.
    """

    text: str
    is_background: bool = False
    mistakes: dict[str, set[str]] = field(default_factory=dict)


def read_clauses(exercise: Exercise) -> list[Clause]:
    """Read clauses/NAME.txt: a clause on each line, and below it, indented, "mistake | case; case".

    A "-" below a clause says that it is background.
    """
    clauses = []
    path = folders.CLAUSES / f"{exercise.name}.txt"
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith(" "):
            clauses.append(Clause(line))
        elif line.strip() == BACKGROUND:
            clauses[-1].is_background = True
        else:
            mistake, _, cases = line.strip().partition(" | ")
            clauses[-1].mistakes[mistake] = set(cases.split("; "))
    return clauses


def read_demands(stub: str) -> str:
    """Return all that a stub says in its docstrings, with one space between words.

    The lines that are the same in all stubs are left out.
    """
    tree = ast.parse(stub)
    introduction = ast.get_docstring(tree).partition("\n")[2].rpartition("In the package this")[0]
    parts = [introduction]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            parts.append(ast.get_docstring(node) or "")
    return " ".join(" ".join(parts).split())
