"""Measures of a Python text that do not depend on its layout.

    python tests/helpers/measures.py [FILE ...]

A statement is an `ast.stmt` that is not a docstring, an expression node an `ast.expr` that is not
part of a docstring.
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Measures:
    """Counts over one or more files."""

    statements: int = 0
    expressions: int = 0
    conditionals: int = 0
    comments: int = 0

    def __add__(self, other: "Measures") -> "Measures":
        return Measures(
            self.statements + other.statements,
            self.expressions + other.expressions,
            self.conditionals + other.conditionals,
            self.comments + other.comments,
        )

    @property
    def density(self) -> float:
        """Expression nodes a statement."""
        return self.expressions / max(1, self.statements)

    @property
    def conditionals_per_100(self) -> float:
        return 100 * self.conditionals / max(1, self.statements)

    @property
    def comments_per_100(self) -> float:
        """Comments on lines of their own, per 100 statements."""
        return 100 * self.comments / max(1, self.statements)


def is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def measure(text: str) -> Measures:
    """The measures of one file."""
    result = Measures()
    for node in without_docstrings(ast.parse(text)):
        result.statements += isinstance(node, ast.stmt)
        result.expressions += isinstance(node, ast.expr)
        result.conditionals += isinstance(node, ast.IfExp)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_comment = token.type == tokenize.COMMENT
        result.comments += is_comment and token.line.lstrip().startswith("#")
    return result


def without_docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below `tree`, except docstrings and what is inside them."""
    for child in ast.iter_child_nodes(tree):
        if not is_docstring(child):
            yield child
            yield from without_docstrings(child)


def function_statements(text: str) -> dict[str, int]:
    """How many statements each function has, nested ones included, its own `def` not counted."""
    counts = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            inside = without_docstrings(ast.Module(node.body, []))
            counts[node.name] = sum(isinstance(part, ast.stmt) for part in inside)
    return counts


def is_nested_conditional(node: ast.AST) -> bool:
    if not isinstance(node, ast.IfExp):
        return False
    return any(isinstance(part, ast.IfExp) and part is not node for part in ast.walk(node))


def has_conditional_argument(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
    return any(isinstance(part, ast.IfExp) for part in arguments)


def is_crowded_comprehension(node: ast.AST) -> bool:
    loops = getattr(node, "generators", [])
    return len(loops) > 1 and any(loop.ifs for loop in loops)


def misplaced_walruses(tree: ast.AST) -> list[int]:
    """The lines of those that are not the whole condition of an `if` or a `while`."""
    allowed = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While)):
            allowed |= {id(part) for part in condition_parts(node.test)}
    walruses = [node for node in ast.walk(tree) if isinstance(node, ast.NamedExpr)]
    return [node.lineno for node in walruses if id(node) not in allowed]


def condition_parts(test: ast.expr) -> Iterator[ast.expr]:
    """The condition itself, and what it compares or negates: `while (n := f()) < 3`."""
    yield test
    if isinstance(test, ast.Compare):
        yield test.left
    if isinstance(test, ast.UnaryOp):
        yield test.operand


def is_double_assignment(node: ast.AST) -> bool:
    """`a, b = x, y`, unless it swaps or rotates the same names: `a, b = b, a`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    if not any(isinstance(target, ast.Tuple) for target in node.targets):
        return False
    left = {ast.unparse(part) for part in node.targets[0].elts}
    right = {ast.unparse(part) for part in node.value.elts}
    return left != right


PROBLEMS = [
    (is_double_assignment, "two assignments in one"),
    (is_nested_conditional, "a conditional expression inside another"),
    (has_conditional_argument, "a conditional expression as an argument"),
    (is_crowded_comprehension, "a comprehension with two loops and a condition"),
]


def habits(text: str) -> list[str]:
    """What the rules of CONTRIBUTING.md forbid, each as "line N: what"."""
    tree = ast.parse(text)
    problems = []
    for node in ast.walk(tree):
        for is_problem, description in PROBLEMS:
            if is_problem(node):
                problems.append((node.lineno, description))
    for line in misplaced_walruses(tree):
        problems.append((line, "a walrus that is not the condition of an if or while"))
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > 100:
            problems.append((number, f"{len(line)} characters"))
    return [f"line {number}: {what}" for number, what in sorted(problems)]


def main() -> None:
    root = Path(__file__).parents[2]
    named = [Path(name) for name in sys.argv[1:]]
    paths = named or sorted((root / "nanos2t").rglob("*.py"))
    print(f"{'file':<44}{'stmts':>6}{'nodes/st':>9}{'if-else':>8}{'comments':>9}  longest, habits")
    total = Measures()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        measures = measure(text)
        total += measures
        longest = max(function_statements(text).items(), key=lambda pair: pair[1], default=("", 0))
        row = (
            f"{measures.statements:>6}{measures.density:>9.2f}{measures.conditionals_per_100:>8.1f}"
        )
        row += f"{measures.comments_per_100:>9.1f}  {longest[0]} {longest[1]}, {len(habits(text))}"
        print(f"{path.name if named else str(path.relative_to(root)):<44}{row}")
        if named:
            print("".join(f"    {line}\n" for line in habits(text)), end="")
    print(
        f"{'together':<44}{total.statements:>6}{total.density:>9.2f}"
        f"{total.conditionals_per_100:>8.1f}{total.comments_per_100:>9.1f}"
    )


if __name__ == "__main__":
    main()
