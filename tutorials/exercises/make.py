"""Make stubs/ and keys/, which the grader needs.

For maintainers: run `nanos2t exercises make` after changing the package, a check or a mistake.
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

from exercises import folders
from exercises.calls import collect_answers
from exercises.comparison import Answer, answer_distance, is_close
from exercises.course import EXERCISES
from exercises.exercise import Exercise
from exercises.loading import load_functions
from exercises.targets import (
    package_function,
    replace_functions,
    short_name,
    source_file,
    source_location,
)

SAME = 1e-6  # numbers of a key that are nearer than this to those computed stay as they are


def write_files() -> None:
    """Write stubs/ and keys/ again, and remove everything else from them."""
    for folder, texts in (folders.STUBS, make_stubs()), (folders.KEYS, make_keys()):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


# Stubs


def find_definition(target: str) -> tuple[ast.FunctionDef, list[str]]:
    """Return a function of the package as a syntax tree, and all lines of its file."""
    source = source_file(target).read_text(encoding="utf-8")
    node = ast.parse(source)
    for name in short_name(target).split("."):
        node = next(part for part in node.body if getattr(part, "name", "") == name)
    return node, source.splitlines()


def last_header_line(node: ast.FunctionDef) -> int:
    """Return the number of the last line of signature and docstring."""
    first = node.body[0]
    if ast.get_docstring(node) is None:
        return first.lineno - 1
    return first.end_lineno


def placeholder(node: ast.FunctionDef, exercise: Exercise) -> str:
    """Return the line that students replace."""
    return " " * (node.col_offset + 4) + f'raise NotImplementedError("{exercise.id}")'


def make_stub(exercise: Exercise) -> str:
    """Return the file that a student starts from."""
    files = {source_location(target).partition(",")[0] for target in exercise.checks}
    lines = [
        f'"""Exercise {exercise.number}: {exercise.title}',
        "",
        textwrap.dedent(exercise.task),
        "",
        f"In the package this is in {' and '.join(sorted(files))}; try it before you look.",
        "Change no argument in place, unless the text asks for it.",
        f"Check it: nanos2t exercises {exercise.number}",
        f"Stuck: nanos2t exercises hint {exercise.number}",
        '"""',
        "",
        exercise.imports,
    ]

    # The methods of a class share one `class` line, at the place of the first of them.
    parts = {}
    for target in exercise.checks:
        node, source = find_definition(target)
        header = source[node.lineno - 1 : last_header_line(node)]
        text = "\n".join([*header, placeholder(node, exercise)]) + "\n"

        owner = short_name(target).rpartition(".")[0]
        if not owner:
            parts[target] = text
        elif owner in parts:
            parts[owner] += "\n" + text
        else:
            parts[owner] = f"class {owner}:  # this part of it\n{text}"
    return "\n".join(lines) + "".join(f"\n\n{part}" for part in parts.values())


def make_stubs() -> dict[str, str]:
    return {f"{exercise.name}.py": make_stub(exercise) for exercise in EXERCISES}


# Mistakes


def read_mistakes(exercise: Exercise) -> dict[str, list[tuple[str, str]]]:
    """Return {sentence: [(text of the second right answer, what the mistake has instead), ...]}.

    A block of mistakes/NAME.txt is one mistake. Its `#` lines are the sentence that the grader
    prints. Each run of `-` lines is a text that occurs once in answers/NAME.py; the `+` lines after
    it replace it.
    """
    path = folders.MISTAKES / f"{exercise.name}.txt"
    mistakes = {}
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        lines = block.splitlines()
        sentence = " ".join(line[2:] for line in lines if line.startswith("#"))
        if sentence in mistakes:
            raise ValueError(f"{path}: two mistakes have the sentence {sentence!r}")
        mistakes[sentence] = read_edits([line for line in lines if not line.startswith("#")])
    return mistakes


def read_edits(lines: list[str]) -> list[tuple[str, str]]:
    """Return (old, new) for each run of `-` lines and the `+` lines after it."""
    edits = []
    for is_old, group in itertools.groupby(lines, key=lambda line: line.startswith("-")):
        text = "\n".join(line[2:] for line in group)
        if is_old:
            edits.append((text, ""))
        else:
            old, _ = edits.pop()
            edits.append((old, text))
    return edits


def wrong_sources(exercise: Exercise) -> dict[str, str]:
    """Return {sentence: the second right answer, edited so that it makes this mistake}."""
    source = exercise.path(folders.ANSWERS).read_text(encoding="utf-8")
    sources = {}
    for sentence, edits in read_mistakes(exercise).items():
        text = source
        for old, new in edits:
            count = text.count(old)
            if count != 1:
                raise ValueError(
                    f"{exercise.name}: {old!r} occurs {count} times in the answer, expected once"
                )
            text = text.replace(old, new)
        sources[sentence] = text
    return sources


# Keys


def load_source(exercise: Exercise, text: str, folder: Path) -> dict[str, Callable]:
    """Return the functions of an answer that is given as text; it is written to a folder first."""
    path = exercise.path(folder)
    path.write_text(text, encoding="utf-8")
    return load_functions(exercise, path)


def answer_checks(
    exercise: Exercise, functions: dict[str, Callable]
) -> Iterator[tuple[str, dict[str, Answer]]]:
    """Yield (target, {case: flattened answer}) for each function of an exercise.

    They come one by one, because a later function may not end if one before it is wrong.
    """
    with replace_functions(functions):
        for target in exercise.checks:
            answers, _ = collect_answers(exercise, target, functions[target])
            yield target, answers


def stored_answers(exercise: Exercise) -> dict[str, dict[str, dict[str, Answer]]]:
    """Return {target: {sentence: {case: answer}}}; the sentence "" has the right answers.

    A mistake is kept for the first function that it changes, with the cases in which it shows.
    """
    functions = {target: package_function(target) for target in exercise.checks}
    right = dict(answer_checks(exercise, functions))
    stored = {target: {"": answers} for target, answers in right.items()}

    with tempfile.TemporaryDirectory() as folder:
        for sentence, text in wrong_sources(exercise).items():
            target, wrong = first_wrong_answers(exercise, text, Path(folder), right)
            if not wrong:
                raise ValueError(f"{exercise.name}: the mistake {sentence!r} does not show")
            stored[target][sentence] = wrong
    return stored


def first_wrong_answers(
    exercise: Exercise, text: str, folder: Path, right: dict[str, dict[str, Answer]]
) -> tuple[str, dict[str, Answer]]:
    """Return the first function that a mistake changes, and {case: answer} where it differs."""
    for target, answers in answer_checks(exercise, load_source(exercise, text, folder)):
        wrong = {}
        for case, answer in answers.items():
            if not is_close(answer, right[target][case]):
                wrong[case] = answer
        if wrong:
            return target, wrong
    return "", {}


def round_numbers(array: np.ndarray) -> object:
    """Return an array as nested lists; nothing needs more than eight digits."""
    if array.dtype.kind != "f":
        return array.tolist()
    # Adding 0 makes -0.0 a 0.0.
    numbers = [float(f"{number:.8g}") + 0.0 for number in array.ravel()]
    return np.array(numbers).reshape(array.shape).tolist()


def write_key(stored: dict[str, dict[str, dict[str, Answer]]]) -> str:
    """Return the text of a key: JSON with one line for each case."""
    targets = []
    for target, sentences in stored.items():
        blocks = []
        for sentence, answers in sentences.items():
            cases = []
            for case, answer in answers.items():
                numbers = {name: round_numbers(array) for name, array in answer.items()}
                cases.append(f"    {json.dumps(case)}: {json.dumps(numbers)}")
            blocks.append(f"  {json.dumps(sentence)}: {{\n" + ",\n".join(cases) + "\n  }")
        targets.append(f" {json.dumps(target)}: {{\n" + ",\n".join(blocks) + "\n }")
    return "{\n" + ",\n".join(targets) + "\n}\n"


def flatten_key(text: str) -> Answer:
    """Return all numbers of a key as one answer, in the order of the text."""
    return {
        f"{target}, {sentence}, {case}, {part}": np.asarray(numbers)
        for target, sentences in json.loads(text).items()
        for sentence, cases in sentences.items()
        for case, answer in cases.items()
        for part, numbers in answer.items()
    }


def make_key(exercise: Exercise) -> str:
    """Return the text of a key: the one that is there, if only last digits differ.

    They depend on the processor, and the keys in the repository should not.
    """
    text = write_key(stored_answers(exercise))
    path = folders.KEYS / f"{exercise.id}.json"
    if not path.exists():
        return text

    present = path.read_text(encoding="utf-8")
    try:
        distance = answer_distance(flatten_key(text), flatten_key(present))
    except (ValueError, AttributeError):
        return text  # what is there is no key
    return present if distance < SAME else text


def make_keys() -> dict[str, str]:
    return {f"{exercise.id}.json": make_key(exercise) for exercise in EXERCISES}
