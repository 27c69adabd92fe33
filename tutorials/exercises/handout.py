"""Copies for a class: a hand-out without answers, and the answers for the teacher."""

import base64
import inspect
import re
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

from exercises import folders
from exercises.course import EXERCISES
from exercises.exercise import Exercise
from exercises.make import find_definition, last_header_line, placeholder, read_mistakes
from exercises.report import format_task
from exercises.targets import (
    PACKAGE,
    package_function,
    short_name,
    source_file,
    source_location,
)

ROOT = PACKAGE.parent
TASKS_NAME = "TASKS.md"
# What students must not see, and what only teachers and maintainers use.
LEFT_OUT = shutil.ignore_patterns(
    *("__pycache__", "*.pyc", "README.md"),
    *("answers", "clauses", "keys", "mistakes", "stubs", "work"),
)
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc")
# These compute the same as the function of an exercise: their bodies are left out with it.
NEAR_ANSWERS = {"ex05": ["wav2vec2:attend_step_by_step"]}

IGNORED = """\
__pycache__/
*.egg-info/
.pytest_cache/
.venv/
venv/
tutorials/exercises/work/
"""

README = """\
# nanos2t, to be completed

This is a speech encoder-decoder in PyTorch, from the waveform to the words. Left to you: {count}.
The functions to write end in `raise NotImplementedError`. Everything else is there, with a trained
model.

    pip install -c constraints.txt -e . pytest
    nanos2t exercises     # what is done, wrong and next; or: pytest tutorials/exercises

Read the task in [TASKS.md](TASKS.md), open the file that it names, write the function, and run it
again.

| command | what it does |
|---|---|
| `nanos2t exercises {example}` | checks this one alone; prints its task while it is not written |
| `nanos2t exercises --watch` | checks again on each save, until Ctrl-C |
| `nanos2t exercises hint {example}` | a hint; there are three, and each call shows one more |
| `nanos2t transcribe nanos2t/assets/sample.wav --no-fast` | the model runs what you have written |

The lessons are pages with pictures, in [tutorials/rendered](tutorials/rendered). Some exercises
need functions of others: the grader says which. Of each exercise it reports the first function that
is wrong. Its cases are public. Those of your teacher have other numbers in them. In your teacher's
run the code can write no files, start no programs and use no network: leave out what only draws or
stores a result.

{model_runs}
Record yourself with any program, as wav, mp3, flac or ogg, and say one to four digits in English,
each clearly: that is all the model has learned. When all exercises are right,
`nanos2t report FILE -o page.html` shows the same stage by stage.

{table}

Hand in the folder `nanos2t`, or a zip of it.
"""

# When the model runs: in a hand-out of all exercises, and in one of some.
ALL_NEEDED = (
    "The model runs when exercises 1 to 11 and 14 are right; 12 is for `--num-beams`, 13 for "
    "`--words`."
)
SOME_NEEDED = "The model runs when the exercises below are right."

TASKS = """\
# Tasks

What each function has to do, beside its docstring. All that is checked is said in one of the two.
"""

SOLUTIONS = """\
# Solutions of the exercises

For teachers. `package/` has the functions of the package, which `nanos2t exercises export` leaves
out. `answers/` has a second right answer to each exercise, as a student might write it.

What the grader knows by name:

{mistakes}
"""


def export_package(folder: Path, exercises: Sequence[Exercise] = EXERCISES) -> None:
    """Write a hand-out: a checkout without the bodies, the answers, the tests and the lessons.

    Only `exercises` are left to the students. The functions of all others stay as they are.
    ValueError: the folder exists and is not empty.
    """
    require_empty(folder)
    shutil.copytree(PACKAGE, folder / "nanos2t", ignore=CACHES)
    shutil.copytree(ROOT / "weights_map", folder / "weights_map", ignore=CACHES)
    tutorials = folder / "tutorials"
    shutil.copytree(folders.HERE, tutorials / "exercises", ignore=LEFT_OUT)
    copy_lessons(tutorials / "rendered", exercises)
    for name in "pyproject.toml", "constraints.txt", "LICENSE":
        shutil.copyfile(ROOT / name, folder / name)

    for path in PACKAGE.rglob("*.py"):
        text = remove_bodies(path.read_text(encoding="utf-8"), path, exercises)
        target = folder / "nanos2t" / path.relative_to(PACKAGE)
        target.write_text(text, encoding="utf-8")
    for exercise in exercises:
        path = folders.KEYS / f"{exercise.id}.json"
        write_packed_key(path, tutorials / "exercises" / "keys")
    for name, text in {
        "README.md": make_readme(exercises),
        TASKS_NAME: make_tasks(exercises),
        ".gitignore": IGNORED,
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


def copy_lessons(folder: Path, exercises: Sequence[Exercise]) -> None:
    """Write the pages of the lessons, which name only what a hand-out has.

    The lessons themselves need the functions that are missing.
    """
    shutil.copytree(folders.HERE.parent / "rendered", folder)
    for path in folder.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r" \| \[the lesson as a program\]\([^)]*\)", "", text)
        text = text.replace("(../README.md)", "(../../README.md)")
        for exercise in EXERCISES:
            if exercise not in exercises:
                line = rf"^    nanos2t exercises {exercise.number} .*\n"
                text = re.sub(line, "", text, flags=re.MULTILINE)
        # The heading of what is then empty.
        text = re.sub(r"## Now write it\s*\Z", "", text)
        path.write_text(text, encoding="utf-8")


def require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: expected a new or an empty folder")


def remove_bodies(source: str, path: Path, exercises: Sequence[Exercise]) -> str:
    """Return the source of a module with a placeholder as the body of each exercised function."""
    lines = source.splitlines()
    for exercise in exercises:
        for target in [*exercise.checks, *NEAR_ANSWERS.get(exercise.id, [])]:
            if source_file(target) != path:
                continue
            # None for each removed line, so that line numbers stay right for the next function.
            node, _ = find_definition(target)
            first = last_header_line(node)
            removed = [None] * (node.end_lineno - first - 1)
            indent = " " * (node.col_offset + 4)
            comment = f"{indent}# Exercise {exercise.number}: {TASKS_NAME} says what to do."
            body = f"{comment}\n{placeholder(node, exercise)}"
            lines[first : node.end_lineno] = [body, *removed]
    return "\n".join(line for line in lines if line is not None) + "\n"


def write_packed_key(path: Path, folder: Path) -> None:
    """Write a key so that nobody reads it by accident; folders.read_key_text reads it."""
    folder.mkdir(exist_ok=True)
    packed = base64.b64encode(zlib.compress(path.read_bytes()))
    (folder / f"{path.stem}.key").write_bytes(packed)


def make_readme(exercises: Sequence[Exercise]) -> str:
    lines = ["| | exercise | what to write | file | minutes | |", "|---|---|---|---|---|---|"]
    for exercise in exercises:
        names = ", ".join(f"`{target.partition(':')[2]}`" for target in exercise.checks)
        places = {source_location(target).partition(",")[0] for target in exercise.checks}
        files = ", ".join(f"[{place}]({place})" for place in sorted(places))
        row = [exercise.number, exercise.title, names, files, exercise.minutes]
        row.append("*" * exercise.difficulty)
        lines.append(f"| {' | '.join(map(str, row))} |")
    numbers = [exercise.number for exercise in exercises]
    count = f"{len(numbers)} exercises" if len(numbers) > 1 else "one exercise"
    model_runs = ALL_NEEDED if len(numbers) == len(EXERCISES) else SOME_NEEDED
    return README.format(
        count=count, example=numbers[0], model_runs=model_runs, table="\n".join(lines)
    )


def make_tasks(exercises: Sequence[Exercise]) -> str:
    """Return the tasks of the exercises, as the stubs have them."""
    sections = [TASKS]
    for exercise in exercises:
        names = ", ".join(f"`{short_name(target)}`" for target in exercise.checks)
        # Each step is a paragraph: in Markdown, lines that follow each other are joined.
        text = re.sub(r"\n(?=STEP \d)", "\n\n", format_task(exercise))
        sections.append(f"## {exercise.number} {exercise.title}\n\nWrite {names}.\n\n{text}")
    return "\n".join(sections)


# For the teacher


def export_solutions(folder: Path) -> None:
    """Write the solutions of all exercises. ValueError: the folder exists and is not empty."""
    require_empty(folder)
    sections = []
    for exercise in EXERCISES:
        for name, text in {
            "package": package_solution(exercise),
            "answers": exercise.path(folders.ANSWERS).read_text(encoding="utf-8"),
        }.items():
            path = exercise.path(folder / name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        sentences = "\n".join(f"- {sentence}" for sentence in read_mistakes(exercise))
        sections.append(f"## {exercise.number} {exercise.title}\n\n{sentences}")
    text = SOLUTIONS.format(mistakes="\n\n".join(sections))
    (folder / "README.md").write_text(text, encoding="utf-8")


def package_solution(exercise: Exercise) -> str:
    """Return the package's own functions of an exercise, to be read."""
    parts = []
    for target in exercise.checks:
        source = inspect.getsource(package_function(target))
        parts.append(f"# {source_location(target)}\n{source}")
    return "\n".join(parts)
