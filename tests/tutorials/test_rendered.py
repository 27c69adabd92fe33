# pytest tests/tutorials/test_rendered.py
"""The lessons as pages: of the same version as their sources, complete, and within the budget.

That what they print is still so is held where the lessons are run: test_tutorials.py.
"""

import re
from pathlib import Path

import pytest
import render
from helpers.paths import ROOT
from helpers.rendered import differences
from notebooks import find_lessons, split_cells

LESSONS = find_lessons()
GALLERY = ROOT / "tutorials" / "README.md"
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def read_page(lesson: Path) -> str:
    return (render.RENDERED / f"{lesson.stem}.md").read_text(encoding="utf-8")


@each_lesson
def test_page_has_the_text_and_code_of_the_lesson(lesson: Path):
    page = read_page(lesson)
    command = f"run: python tutorials/recipes/render.py {int(lesson.name[:2])}"
    assert page == render.make_page(lesson, render.read_outputs(page)), command


@each_lesson
def test_each_picture_is_there_and_has_a_description_and_a_caption(lesson: Path):
    cells = list(split_cells(lesson.read_text(encoding="utf-8")))
    shown = 0
    for (kind, source), (next_kind, following) in zip(cells, cells[1:]):
        if kind == "code" and "plt.show()" in source:
            assert next_kind == "markdown" and following.startswith("*What to look at: ")
            assert following.partition("\n\n")[0].endswith("*")
            shown += source.count("plt.show()")
            assert len(render.picture_descriptions(source)) == source.count("plt.show()")
    pictures = render.PICTURE.findall(read_page(lesson))
    assert len(pictures) == shown >= 1
    assert all(20 < len(description) < 200 for description, _ in pictures)
    files = {path.name for path in render.RENDERED.glob(f"{lesson.stem}*.png")}
    assert files == {name for _, name in pictures}


def test_folder_has_nothing_else_and_is_small():
    files = list(render.RENDERED.iterdir())
    assert {path.name[:2] for path in files} == {path.name[:2] for path in LESSONS}
    assert {path.suffix for path in files} == {".md", ".png"}
    assert sum(path.stat().st_size for path in files) < 6_000_000
    assert min(path.stat().st_size for path in files) > 4000


@each_lesson
def test_page_leads_on_and_names_no_machine(lesson: Path):
    page = read_page(lesson)
    for link in re.findall(r"\]\(([^)#\s]+)\)", page):
        assert (render.RENDERED / link).exists(), link
    assert not re.search(r"/(home|root|tmp|work|usr)/", page)


@each_lesson
def test_gallery_shows_each_lesson(lesson: Path):
    [row] = [
        line
        for line in GALLERY.read_text(encoding="utf-8").splitlines()
        if f"**[{render.lesson_title(lesson)}](rendered/{lesson.stem}.md)**" in line
    ]
    assert re.match(rf"\| \[!\[.{{20,}}\]\(rendered/{lesson.stem}-\d\.png\)\]\(", row)
    assert f"]({lesson.name})" in row


def test_pages_of_another_version_are_found(tmp_path: Path):
    lesson = tmp_path / "00_small.py"
    lesson.write_text(
        "# %% [markdown]\n# # 0. Small\n#\n# Text.\n\n# %%\nprint(1.5)\n"
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\n# Picture: a line that\n# rises\n"
        "plt.show()\n\n# %%\nx = 2\n\n# %%\nprint(x)\n"
    )
    render.render_lesson(lesson, tmp_path / "pages")
    page = (tmp_path / "pages" / "00_small.md").read_text()
    assert "# 0. Small\n\nText.\n\n```python\nprint(1.5)\n" in page
    assert "```text\n1.5\n```\n\n![a line that rises](00_small-1.png)\n" in page
    assert page.endswith("```python\nx = 2\n```\n\n```python\nprint(x)\n```\n\n```text\n2\n```\n")
    assert page == render.make_page(lesson, render.read_outputs(page))
    first = (tmp_path / "pages" / "00_small-1.png").read_bytes()

    # The same lesson gives the same bytes.
    render.render_lesson(lesson, tmp_path / "pages")
    assert page == (tmp_path / "pages" / "00_small.md").read_text()
    assert first == (tmp_path / "pages" / "00_small-1.png").read_bytes()
    lesson.write_text(lesson.read_text().replace("x = 2", "x  = 2"))
    assert page != render.make_page(lesson, render.read_outputs(page))


@pytest.mark.parametrize("numbers", [["11"], ["0"], ["4", "99"]])
def test_a_lesson_that_is_not_there_is_told(numbers, monkeypatch, capsys):
    """Before any other is run."""
    monkeypatch.setattr("sys.argv", ["render.py", *numbers])
    monkeypatch.setattr(render, "render_lesson", None)
    with pytest.raises(SystemExit) as end:
        render.main()
    assert end.value.code == 2
    assert f"{numbers[-1]}: expected a lesson, 1 to 10" in capsys.readouterr().err


def test_numbers_are_compared_nearly():
    assert not differences("loss 0.53, errors 7%", "loss  0.54, errors 7%")
    assert not differences("at most 1e-07", "at most 3e-07")
    assert not differences("[0.0, 2]", "[-0.0, 2]")
    assert differences("loss 0.53", "loss 0.58") == ["'loss 0.53' and 'loss 0.58'"]
    assert differences("loss 0.53", "loss 0.58", with_numbers=False) == []
    assert differences("3 words", "4 words") and differences("two", "three")
    assert differences("1\n2", "1") == ["2 lines and 1 lines"]
