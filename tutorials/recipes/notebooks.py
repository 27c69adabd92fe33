"""Write the lessons as Jupyter notebooks: python tutorials/recipes/notebooks.py [FOLDER]

A lesson is a Python file in which `# %%` begins a cell of code and `# %% [markdown]` one of prose,
in comments. The same lesson always gives the same bytes: the id of a cell follows from its place
and text.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

LESSONS = Path(__file__).parents[1]


def find_lessons() -> list[Path]:
    return sorted(LESSONS.glob("[0-9][0-9]_*.py"))


def split_cells(text: str) -> Iterator[tuple[str, str]]:
    """Yield the cells of a lesson: ("markdown" or "code", source)."""
    before, *parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    if before.strip():
        raise ValueError(f"{before.strip()[:40]!r} is before the first cell, expected # %%")
    for title, source in zip(parts[::2], parts[1::2]):
        if title.strip() == "[markdown]":
            yield "markdown", re.sub(r"^# ?", "", source.strip(), flags=re.MULTILINE)
        else:
            yield "code", source.strip()


def make_cell(number: int, kind: str, source: str) -> dict:
    digest = hashlib.sha256(f"{number} {kind} {source}".encode()).hexdigest()
    cell = {
        "cell_type": kind,
        "id": digest[:12],
        "metadata": {},
        "source": source.splitlines(keepends=True),
    }
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def make_notebook(text: str) -> dict:
    """Return a lesson as a notebook of format 4.5, without outputs."""
    cells = [make_cell(i, kind, source) for i, (kind, source) in enumerate(split_cells(text))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write_notebooks(folder: Path) -> list[Path]:
    """Write a notebook for each lesson, over those that exist."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for lesson in find_lessons():
        notebook = make_notebook(lesson.read_text(encoding="utf-8"))
        path = folder / f"{lesson.stem}.ipynb"
        text = json.dumps(notebook, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the lessons as Jupyter notebooks.")
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path("notebooks"), help="default: notebooks"
    )
    for path in write_notebooks(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
