"""Run the lessons and write them as pages with their pictures: python tutorials/recipes/render.py

    python tutorials/recipes/render.py 4 6    # these lessons only

A page is Markdown in tutorials/rendered: the text of a lesson, its code, what the code prints, and
its pictures as PNG. In a lesson, a comment `# Picture: ...` above `plt.show()` says what the
picture shows, for those who cannot see it; the prose after the cell begins with the caption. The
same lesson gives the same page on the same machine. On another one the last digits may differ.
"""

import argparse
import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from notebooks import LESSONS, find_lessons, split_cells

RENDERED = LESSONS / "rendered"
OUTPUT = re.compile(r"^```text\n(.*?)\n```\n", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"^```python\n(.*?)\n```\n", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[(.+)\]\((\S+\.png)\)$", re.MULTILINE)


@dataclass
class CellOutput:
    """What a cell of code printed, and the names of the pictures that it drew."""

    printed: str = ""
    pictures: list[str] = field(default_factory=list)


def lesson_title(lesson: Path) -> str:
    """Return "4. From text to tokens", the heading of a lesson."""
    [title] = re.findall(r"^# # (\d+\. .*)$", lesson.read_text(encoding="utf-8"), re.MULTILINE)
    return title


def source_hash(lesson: Path) -> str:
    return hashlib.sha256(lesson.read_text(encoding="utf-8").encode()).hexdigest()


def picture_descriptions(code: str) -> list[str]:
    """Return the texts of the comments `# Picture: ...`, which may have several lines."""
    comments = re.findall(r"^# Picture: (.*\n(?:# .*\n)*)plt\.show\(\)", code, re.MULTILINE)
    return [" ".join(comment.replace("\n# ", " ").split()) for comment in comments]


# Running


@contextlib.contextmanager
def pictures_to(folder: Path, stem: str, names: list[str]) -> Iterator[None]:
    """Let pyplot.show save its figures to a folder; their names are added to `names`."""
    from matplotlib import pyplot

    def save_figures() -> None:
        for number in pyplot.get_fignums():
            names.append(f"{stem}-{len(names) + 1}.png")
            # The same bytes each time: without the name of the program that made them.
            figure = pyplot.figure(number)
            figure.savefig(folder / names[-1], dpi=100, metadata={"Software": None})
        pyplot.close("all")

    show = pyplot.show
    pyplot.show = save_figures
    try:
        yield
    finally:
        pyplot.show = show


def run_lesson(lesson: Path, folder: Path) -> tuple[list[CellOutput], dict]:
    """Run the cells of code, save the pictures to a folder; return the outputs and variables."""
    variables = {"__name__": "__main__", "__file__": str(lesson)}
    outputs = []
    names = []
    with pictures_to(folder, lesson.stem, names):
        for kind, source in split_cells(lesson.read_text(encoding="utf-8")):
            if kind == "code":
                drawn = len(names)
                place = f"{lesson.name}, cell of code {len(outputs) + 1}"
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(compile(source, place, "exec"), variables)
                outputs.append(CellOutput(printed.getvalue().rstrip(), names[drawn:]))
    return outputs, variables


# Pages


def page_header(lesson: Path) -> str:
    """Say what a page was made from, and where to go from it."""
    name = lesson.name
    lines = [
        f"<!-- Made by tutorials/recipes/render.py from tutorials/{name}: change that file. -->",
        f"<!-- SHA-256 {source_hash(lesson)} -->",
        "",
    ]
    links = ["[all lessons](../README.md)", f"[the lesson as a program](../{name})"]
    lessons = find_lessons()
    if lesson in lessons[:-1]:
        following = lessons[lessons.index(lesson) + 1]
        links.append(f"next: [{lesson_title(following)}]({following.stem}.md)")
    return "\n".join(lines) + "\n" + " | ".join(links) + "\n"


def make_page(lesson: Path, outputs: list[CellOutput]) -> str:
    """Weave the text and code of a lesson with what its cells printed and drew."""
    remaining = iter(outputs)
    parts = [page_header(lesson)]
    for kind, source in split_cells(lesson.read_text(encoding="utf-8")):
        if kind == "markdown":
            parts.append(source + "\n")
            continue
        output = next(remaining)
        parts.append(f"```python\n{source}\n```\n")
        if output.printed:
            parts.append(f"```text\n{output.printed}\n```\n")
        for description, name in zip(picture_descriptions(source), output.pictures, strict=True):
            parts.append(f"![{description}]({name})\n")
    return "\n".join(parts)


def read_outputs(page: str) -> list[CellOutput]:
    """Return what the cells of code printed and drew, from a page."""
    outputs = []
    starts = [match.start() for match in CODE.finditer(page)]
    for start, end in zip(starts, [*starts[1:], len(page)]):
        after = page[CODE.match(page, start).end() : end]
        output = CellOutput(pictures=[name for _, name in PICTURE.findall(after)])
        if match := OUTPUT.match(after.lstrip("\n")):
            output.printed = match[1]
        outputs.append(output)
    return outputs


def render_lesson(lesson: Path, folder: Path) -> dict:
    """Run a lesson, write its page and pictures over those in a folder; return its variables."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{lesson.stem}-*.png"):
        old.unlink()
    outputs, variables = run_lesson(lesson, folder)
    page = make_page(lesson, outputs)
    (folder / f"{lesson.stem}.md").write_text(page, encoding="utf-8")
    return variables


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the lessons and write them as pages.")
    parser.add_argument("lessons", nargs="*", type=int, help="their numbers; default: all")
    numbers = parser.parse_args().lessons
    lessons = {int(path.name[:2]): path for path in find_lessons()}
    for number in numbers:
        if number not in lessons:
            parser.error(f"{number}: expected a lesson, {min(lessons)} to {max(lessons)}")
    chosen = [lessons[number] for number in sorted(set(numbers)) or lessons]

    # Before torch and matplotlib are imported: sums of several threads have other last digits.
    os.environ |= {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    if len(chosen) == 1:
        render_lesson(chosen[0], RENDERED)
        print(RENDERED / f"{chosen[0].stem}.md")
        return

    # Each lesson in a process of its own, as when it is run alone.
    for path in chosen:
        subprocess.run([sys.executable, __file__, path.name[:2]], check=True)


if __name__ == "__main__":
    main()
