# pytest tests/tutorials/test_tutorials.py
"""The lessons: they run without a network, draw, and say nothing that is not so."""

import ast
import builtins
import dataclasses
import importlib
import json
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import notebooks
import pytest
import render
from helpers.rendered import differences

import nanos2t
from nanos2t import DecoderConfig, EncoderConfig, GenerationConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LESSONS = notebooks.find_lessons()
BUNDLED = ROOT / "nanos2t" / "assets" / "spoken-numbers"
FOLDERS = [ROOT, ROOT / "nanos2t", ROOT / "tutorials", BUNDLED]
IMPORTS = {"matplotlib", "nanos2t", "numpy", "safetensors", "torch"}
IMPORTS |= {"sentencepiece", "tokenizers"}
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def prose(lesson: Path) -> str:
    return "\n\n".join(
        text
        for kind, text in notebooks.split_cells(lesson.read_text("utf-8"))
        if kind == "markdown"
    )


def code(lesson: Path) -> str:
    return "\n\n".join(
        text for kind, text in notebooks.split_cells(lesson.read_text("utf-8")) if kind == "code"
    )


def quoted(lesson: Path) -> list[str]:
    """What the prose has in backticks."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose(lesson))]


def commands(lesson: Path) -> list[str]:
    """Lines of the prose that a shell would run."""
    lines = re.findall(r"^    ((?:nanos2t|python|pip|pytest) .*)$", prose(lesson), re.MULTILINE)
    return lines + [
        text for text in quoted(lesson) if text.startswith(("nanos2t ", "python ", "pip "))
    ]


def modules() -> list:
    actual = pkgutil.walk_packages(nanos2t.__path__, "nanos2t.")
    names = [name for _, name, _ in actual if name != "nanos2t.__main__"]
    return [importlib.import_module(name) for name in names]


def resolves(name: str, lesson: dict, places: list) -> bool:
    """Return whether a dotted name is the lesson's, the package's, Python's or a config field."""
    first, *rest = name.split(".")
    configs = (DecoderConfig, EncoderConfig, GenerationConfig)
    fields = {field.name for config in configs for field in dataclasses.fields(config)}
    roots = [place[first] for place in (lesson, {"nanos2t": nanos2t}) if first in place]
    roots += [
        getattr(place, first) for place in [*places, nanos2t, builtins] if hasattr(place, first)
    ]
    for root in roots:
        try:
            for part in rest:
                root = getattr(root, part)
            return True
        except AttributeError:
            pass
    return not rest and first in fields


def unknown(lesson: Path, variables: dict) -> list[str]:
    """Return what the prose has in backticks that is no code, file, tensor or name."""
    places = modules()
    model = variables["stt"].model if "stt" in variables else nanos2t.load().model
    tensors = {*variables.get("theirs", ()), *model.state_dict()}
    pieces = nanos2t.load().tokenizer.backend
    tables = "".join(path.read_text("utf-8") for path in (ROOT / "weights_map").glob("*.txt"))
    lost = []
    for text in quoted(lesson):
        part = re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")
        if (
            text in commands(lesson)
            or text in tensors
            or part.search(tables)
            or part.search(code(lesson))
            or pieces.token_to_id(text) is not None
        ):
            continue
        if any((folder / text).exists() for folder in FOLDERS):
            continue
        try:
            tree = ast.parse(f"_({text})" if re.match(r"\w+=", text) else text, mode="eval")
        except SyntaxError:
            lost.append(text)
            continue
        named = {
            keyword.arg for node in ast.walk(tree) for keyword in getattr(node, "keywords", ())
        }
        inner = {node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Attribute, ast.Name)) and node not in inner:
                named.add(ast.unparse(node))
        lost += [
            f"{name} in {text}"
            for name in sorted(named - {"_"})
            if not resolves(name, variables, places)
        ]
    return lost


def run_lesson(path: str, folder: str) -> None:
    """In a child process: run a lesson without a network, make its page, check its prose."""
    from matplotlib import pyplot

    def forbid(event: str, _) -> None:
        if event.startswith("socket."):
            raise RuntimeError(f"a lesson uses the network: {event}")

    sys.addaudithook(forbid)
    sys.modules["transformers"] = None  # not in the extra `lessons`
    variables = render.render_lesson(Path(path), Path(folder))
    assert not pyplot.get_fignums(), "a picture is drawn, but not shown"
    print(json.dumps(unknown(Path(path), variables)))


@each_lesson
def test_lesson_runs_draws_and_names_what_exists(lesson: Path, tmp_path: Path):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tutorials" / "recipes")))
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
    call = (
        "from tests.tutorials import test_tutorials; "
        f"test_tutorials.run_lesson({str(lesson)!r}, {str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", call],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path.parent,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
    assert "Warning" not in done.stderr, done.stderr
    pictures = list(tmp_path.glob("*.png"))
    assert pictures and min(picture.stat().st_size for picture in pictures) > 4000

    # What it prints and draws is what its page in tutorials/rendered shows. Training makes much of
    # the last digit of a number: there, only the words are compared.
    name = f"{lesson.stem}.md"
    actual = render.read_outputs((tmp_path / name).read_text(encoding="utf-8"))
    page = (render.RENDERED / name).read_text(encoding="utf-8")
    for output, expected in zip(actual, render.read_outputs(page), strict=True):
        assert output.pictures == expected.pictures
        with_numbers = lesson.stem != "10_training"
        assert differences(output.printed, expected.printed, with_numbers) == []


def test_a_network_and_a_wrong_name_are_found(tmp_path: Path):
    lesson = tmp_path / "00_wrong.py"
    lesson.write_text(
        "# %% [markdown]\n"
        "# `wav2vec2.attnd` and `len` and `nanos2t.load(num_beems=1)`\n"
        "# %%\nx = 1\n"
    )
    assert unknown(lesson, {}) == [
        "wav2vec2.attnd in wav2vec2.attnd",
        "num_beems in nanos2t.load(num_beems=1)",
    ]
    lesson.write_text("# %%\nimport socket\nsocket.socket()\n")
    call = (
        "from tests.tutorials import test_tutorials; "
        f"test_tutorials.run_lesson({str(lesson)!r}, {str(tmp_path)!r})"
    )
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tutorials" / "recipes")))
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", call], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode and "a lesson uses the network: socket.__new__" in done.stderr


@each_lesson
def test_commands_of_the_prose_work(lesson: Path, monkeypatch, capfd):
    from exercises.course import select_exercises

    from nanos2t.cli.main import build_parser, main

    monkeypatch.chdir(ROOT)
    for command in commands(lesson):
        program, *arguments = shlex.split(command, comments=True)
        if program != "nanos2t":
            assert any((folder / arguments[0]).exists() for folder in FOLDERS), command
        elif arguments[0] == "exercises" and len(arguments) > 1:
            # It would make a work folder here.
            assert len(select_exercises(arguments[1:])) == 1, command
        elif len(arguments) == 1:
            assert main([*arguments, "--help"]) == 0, command
        else:
            build_parser().parse_args(arguments)
            assert main(arguments) == 0, command
            assert capfd.readouterr().out.strip(), command


@each_lesson
def test_lessons_have_the_same_form(lesson: Path):
    text = prose(lesson)
    assert text.startswith(f"# {int(lesson.stem[:2])}. ")
    _, _, end = text.partition("\n## Try\n")
    tries, _, end = end.partition("\n<details><summary>Answers</summary>\n\n")
    answers, _, _ = end.partition("\n</details>\n")
    numbers = re.findall(r"^\d\. ", tries, re.MULTILINE)
    assert numbers in (["1. ", "2. "], ["1. ", "2. ", "3. "])
    assert re.findall(r"^\d\. ", answers, re.MULTILINE) == numbers
    assert code(lesson).count("assert ") >= 5 and code(lesson).count("plt.show()") >= 1
    assert f"tutorials/{lesson.name}" in README
    tree = ast.parse(code(lesson))
    actual = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    actual |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name.partition(".")[0] for name in actual} - IMPORTS - sys.stdlib_module_names
    assert not outside


def test_lessons_are_ten():
    assert [int(lesson.stem[:2]) for lesson in LESSONS] == list(range(1, 11))


def test_notebooks_are_valid_and_always_the_same(tmp_path: Path):
    call = [sys.executable, ROOT / "tutorials" / "recipes" / "notebooks.py"]
    for name in "first", "second":
        done = subprocess.run(
            [*call, name], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for lesson in LESSONS:
        file, again = (tmp_path / name / f"{lesson.stem}.ipynb" for name in ("first", "second"))
        assert file.read_bytes() == again.read_bytes()
        book = nbformat.read(file, nbformat.NO_CONVERT)
        nbformat.validate(book)
        assert len({cell.id for cell in book.cells}) == len(book.cells)
        assert "\n\n".join(cell.source for cell in book.cells if cell.cell_type == "code") == code(
            lesson
        )


def test_text_before_the_first_cell_is_refused():
    with pytest.raises(ValueError, match="before the first cell"):
        list(notebooks.split_cells("x = 1\n# %%\n"))
