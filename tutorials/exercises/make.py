"""Makes what the grader needs out of the package: stubs/, keys/ and copies for teachers.

For maintainers: `nanos2t exercises make` after a change of the package, of course.py or of mistakes/.
"""

import ast
import itertools
import json
import shutil
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from exercises import grader
from exercises.course import EXERCISES, Exercise
from exercises.grader import HERE, KEYS, STUBS, collect, distance, file_of, reference, resolve

ANSWERS = HERE / "answers"
MISTAKES = HERE / "mistakes"
ROOT = HERE.parents[1]
LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "*.pyc", "answers", "stubs", "work", "mistakes", "make.py"
)


def write() -> None:
    """stubs/ and keys/, written again; nothing else stays there."""
    for folder, made in (STUBS, stubs()), (KEYS, keys()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in made.items():
            (folder / name).write_text(text, encoding="utf-8")


# Stubs


def definition(target: str) -> tuple[ast.FunctionDef, list[str]]:
    """A function in the package's source, and the lines of that source."""
    source = Path(reference(target).__code__.co_filename).read_text(encoding="utf-8")
    node = ast.parse(source)
    for name in grader.short(target).split("."):
        node = next(part for part in node.body if getattr(part, "name", "") == name)
    return node, source.splitlines()


def header(node: ast.FunctionDef, lines: list[str]) -> list[str]:
    """Signature, with the shapes at the margin, and docstring."""
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return lines[node.lineno - 1 : first.lineno - 1]
    return lines[node.lineno - 1 : first.end_lineno]


def stub(exercise: Exercise) -> str:
    """What a student starts from."""
    task = textwrap.dedent(exercise.task)
    files = sorted({grader.location(target).partition(",")[0] for target in exercise.checks})
    text = f'"""Exercise {exercise.number} of {len(EXERCISES)}: {exercise.title}\n\n{task}\n\n'
    text += f"In the package this stands in {' and '.join(files)}; try it before you look.\n"
    text += f"Check it: nanos2t exercises {exercise.number}    Stuck: nanos2t exercises hint {exercise.number}\n"
    text += f'"""\n\n{exercise.imports}'
    parts = {}  # a class stands where its last method does
    for target in exercise.checks:
        owner = grader.short(target).rpartition(".")[0]
        node, lines = definition(target)
        lines = [
            *header(node, lines),
            " " * (node.col_offset + 4) + f'raise NotImplementedError("{exercise.id}")',
        ]
        before = parts.pop(owner, f"class {owner}:  # this part of it\n") if owner else ""
        parts[owner or target] = before + "\n".join(lines) + "\n"
    return text + "".join("\n\n" + part for part in parts.values())


def stubs() -> dict[str, str]:
    return {f"{exercise.name}.py": stub(exercise) for exercise in EXERCISES}


# Keys


def read_mistakes(exercise: Exercise) -> dict[str, list[tuple[str, str]]]:
    """{sentence: [(text of the second right answer, what the mistake has instead), ...]}

    A block of mistakes/NAME.txt is one mistake. Its `#` lines are the sentence that the grader prints.
    Each run of `-` lines is a text that occurs once in answers/NAME.py, the `+` lines after it replace it.
    """
    mistakes = {}
    text = (MISTAKES / f"{exercise.name}.txt").read_text(encoding="utf-8")
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        sentence = " ".join(line[2:] for line in lines if line.startswith("#"))
        mistakes[sentence] = read_edits([line for line in lines if not line.startswith("#")])
    return mistakes


def read_edits(lines: list[str]) -> list[tuple[str, str]]:
    """(old, new) for each run of `-` lines and the `+` lines after it."""
    edits = []
    for minus, group in itertools.groupby(lines, key=lambda line: line.startswith("-")):
        text = "\n".join(line[2:] for line in group)
        if minus:
            edits.append((text, ""))
        else:
            edits[-1] = (edits[-1][0], text)
    return edits


def wrong_sources(exercise: Exercise) -> dict[str, str]:
    """{sentence: the second right answer, edited so that it makes this mistake}"""
    source, made = file_of(exercise, ANSWERS).read_text(encoding="utf-8"), {}
    for sentence, edits in read_mistakes(exercise).items():
        text = source
        for old, new in edits:
            if text.count(old) != 1:
                raise ValueError(
                    f"{exercise.name}: {old!r} stands {text.count(old)} times in the answer, expected once"
                )
            text = text.replace(old, new)
        made[sentence] = text
    return made


def functions_of(exercise: Exercise, text: str, folder: Path) -> dict[str, Callable]:
    path = folder / f"{exercise.name}.py"
    path.write_text(text, encoding="utf-8")
    return grader.load_file(exercise, path)


def answers(exercise: Exercise, functions: dict[str, Callable]) -> Iterator[tuple[str, dict]]:
    """(target, {case: flattened answer}) in turn: one may never end if another before it is wrong."""
    with grader.in_place(functions):
        for target in exercise.checks:
            yield target, collect(exercise, target, functions[target])[0]


def stored_answers(exercise: Exercise) -> dict[str, dict[str, dict]]:
    """{target: {sentence: {case: answer}}}; the sentence "" has the right answers, the others what differs.

    A mistake is kept for the first function that it spoils.
    """
    right = dict(answers(exercise, {target: reference(target) for target in exercise.checks}))
    found = {target: {"": cases} for target, cases in right.items()}
    with tempfile.TemporaryDirectory() as folder:
        for sentence, text in wrong_sources(exercise).items():
            functions = functions_of(exercise, text, Path(folder))
            for target, cases in answers(exercise, functions):
                far = {
                    c: a
                    for c, a in cases.items()
                    if distance(a, right[target][c]) > grader.TOLERANCE
                }
                if far:
                    found[target][sentence] = far
                    break
            else:
                raise ValueError(f"{exercise.name}: the mistake {sentence!r} does not show")
    return found


def rounded(array: np.ndarray) -> object:
    """As nested lists; nothing needs more than eight digits."""
    if array.dtype.kind != "f":
        return array.tolist()
    return np.array([float(f"{x:.8g}") + 0.0 for x in array.ravel()]).reshape(array.shape).tolist()


def key(exercise: Exercise) -> str:
    """The text of a key: JSON with a line for each case."""
    blocks = []
    for target, sentences in stored_answers(exercise).items():
        block = []
        for sentence, cases in sentences.items():
            lines = [
                f"{json.dumps(case)}: {json.dumps({name: rounded(array) for name, array in parts.items()})}"
                for case, parts in cases.items()
            ]
            block.append(f"  {json.dumps(sentence)}: {{\n    " + ",\n    ".join(lines) + "\n  }")
        blocks.append(f" {json.dumps(target)}: {{\n" + ",\n".join(block) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def keys() -> dict[str, str]:
    return {f"{exercise.id}.json": key(exercise) for exercise in EXERCISES}


# A copy for teachers


def without_bodies(source: str, path: Path) -> str:
    """The source of a module of the package, with `raise NotImplementedError` for what is exercised."""
    lines = source.splitlines()
    for exercise in EXERCISES:
        for target in exercise.checks:
            if Path(reference(target).__code__.co_filename) == path:
                node, _ = definition(target)
                first = (
                    node.body[0].lineno - 1
                    if ast.get_docstring(node) is None
                    else node.body[0].end_lineno
                )
                gone = [None] * (node.end_lineno - first - 1)
                lines[first : node.end_lineno] = [
                    " " * (node.col_offset + 4) + f'raise NotImplementedError("{exercise.id}")',
                    *gone,
                ]
    return "\n".join(line for line in lines if line is not None) + "\n"


def export(folder: Path) -> None:
    """A checkout without the bodies, the answers and the tests. ValueError if there is something already."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected a new or an empty folder")
    package = Path(resolve("audio:normalise")[0].__file__).parent
    for name, place in (
        ("nanos2t", package),
        ("weights_map", ROOT / "weights_map"),
        ("tutorials/exercises", HERE),
    ):
        shutil.copytree(place, folder / name, ignore=LEFT_OUT, dirs_exist_ok=True)
    for name in "pyproject.toml", "constraints.txt", "LICENSE", "README.md":
        shutil.copyfile(ROOT / name, folder / name)
    for path in package.rglob("*.py"):
        text = without_bodies(path.read_text(encoding="utf-8"), path)
        (folder / "nanos2t" / path.relative_to(package)).write_text(text, encoding="utf-8")
