"""Measures of a Python text that do not depend on its layout. Run: python tests/helpers/measures.py [FILE ...]

A statement is an `ast.stmt` that is not a docstring, an expression node an `ast.expr` outside of docstrings.
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


def habits(text: str) -> list[str]:
    """What the text rules of CONTRIBUTING.md forbid, as "line N: what"."""
    tree = ast.parse(text)
    found = []

    # The only place of a walrus is the whole condition of an `if` or a `while`.
    conditions = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.If, ast.While)):
            conditions |= {id(part) for part in condition_parts(node.test)}

    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if is_double_assignment(node):
            found.append(f"line {line}: two assignments in one")
        if isinstance(node, ast.IfExp) and any(
            isinstance(part, ast.IfExp) for part in ast.walk(node) if part is not node
        ):
            found.append(f"line {line}: a conditional expression inside another")
        if isinstance(node, ast.NamedExpr) and id(node) not in conditions:
            found.append(f"line {line}: a walrus that is not the whole condition of an if or while")
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            if any(isinstance(part, ast.IfExp) for part in arguments):
                found.append(f"line {line}: a conditional expression as an argument")
        generators = getattr(node, "generators", [])
        if len(generators) > 1 and any(part.ifs for part in generators):
            found.append(f"line {line}: a comprehension with two loops and a condition")
    for number, line in enumerate(text.splitlines(), start=1):
        if len(line) > 100:
            found.append(f"line {number}: {len(line)} characters")
    return found


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


def main() -> None:
    root = Path(__file__).parents[2]
    named = [Path(name) for name in sys.argv[1:]]
    paths = named or sorted((root / "nanos2t").rglob("*.py"))
    print(f"{'file':<44}{'stmts':>6}{'nodes/st':>9}{'if-else':>8}{'comments':>9}  longest, habits")
    total = Measures()
    for path in paths:
        text = path.read_text(encoding="utf-8")
        found = measure(text)
        total += found
        longest = max(function_statements(text).items(), key=lambda pair: pair[1], default=("", 0))
        row = f"{found.statements:>6}{found.density:>9.2f}{found.conditionals_per_100:>8.1f}"
        row += f"{found.comments_per_100:>9.1f}  {longest[0]} {longest[1]}, {len(habits(text))}"
        print(f"{path.name if named else str(path.relative_to(root)):<44}{row}")
        if named:
            print("".join(f"    {line}\n" for line in habits(text)), end="")
    print(
        f"{'together':<44}{total.statements:>6}{total.density:>9.2f}"
        f"{total.conditionals_per_100:>8.1f}{total.comments_per_100:>9.1f}"
    )


if __name__ == "__main__":
    main()
