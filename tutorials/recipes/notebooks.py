"""The lessons as Jupyter notebooks: python tutorials/recipes/notebooks.py [DIR]

A lesson is a Python file in which `# %%` begins a cell of code and `# %% [markdown]` one of prose, in
comments.
The same lesson gives the same bytes: the id of a cell follows from its place and its text.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

LESSONS = Path(__file__).parents[1]


def lessons() -> list[Path]:
    return sorted(LESSONS.glob("[0-9][0-9]_*.py"))


def cells(text: str) -> Iterator[tuple[str, str]]:
    """The cells of a lesson: ("markdown" or "code", source)."""
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    if parts[0].strip():
        raise ValueError(f"{parts[0].strip()[:40]!r} stands before the first cell, expected # %%")
    for title, source in zip(parts[1::2], parts[2::2]):
        if title.strip() == "[markdown]":
            yield "markdown", re.sub(r"^# ?", "", source.strip(), flags=re.MULTILINE)
        else:
            yield "code", source.strip()


def notebook(text: str) -> dict:
    """A lesson as a notebook of format 4.5, without outputs."""
    made = []
    for number, (kind, source) in enumerate(cells(text)):
        name = hashlib.sha256(f"{number} {kind} {source}".encode()).hexdigest()[:12]
        cell = {
            "cell_type": kind,
            "id": name,
            "metadata": {},
            "source": source.splitlines(keepends=True),
        }
        made.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write(folder: Path) -> list[Path]:
    """A notebook for each lesson, over those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for lesson in lessons():
        written.append(folder / f"{lesson.stem}.ipynb")
        content = json.dumps(
            notebook(lesson.read_text(encoding="utf-8")), indent=1, ensure_ascii=False
        )
        written[-1].write_text(content + "\n", encoding="utf-8")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the lessons as Jupyter notebooks.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("notebooks"), help="default: notebooks"
    )
    for path in write(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
