# pytest tests/cli/test_exercises.py
"""nanos2t/cli/exercises.py: which checkout's exercises are meant. tests/tutorials/ has the rest."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from nanos2t.cli import exercises
from nanos2t.cli import main as cli
from nanos2t.cli.console import CommandError, explain_unwritten


@pytest.fixture
def no_checkout(monkeypatch, tmp_path):
    """The current folder is no checkout, nor is the one that the package is in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exercises, "__file__", str(tmp_path / "nanos2t" / "cli" / "exercises.py"))
    return tmp_path


def test_no_checkout(no_checkout, capsys):
    assert cli.main(["exercises"]) == 2
    assert "go to a checkout of nanos2t" in capsys.readouterr().err


def test_work_without_a_checkout(no_checkout):
    with (
        pytest.raises(CommandError, match="go to a checkout") as caught,
        exercises.replaced_functions("work"),
    ):
        pass
    assert caught.value.code == 2


def test_a_checkout_above_the_current_folder(no_checkout, monkeypatch):
    folder = no_checkout / "tutorials" / "exercises"
    below = no_checkout / "a" / "b"
    folder.mkdir(parents=True)
    below.mkdir(parents=True)
    (folder / "grader.py").write_text("")
    imported = []
    start = SimpleNamespace(import_part=imported.append)
    monkeypatch.setattr(exercises, "import_module", lambda name: imported.append(name) or start)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(below)
    exercises.find_grader()
    assert imported == ["exercises.start", "grader"] and sys.path[0] == str(
        no_checkout / "tutorials"
    )


@pytest.mark.parametrize("identifier, number", [("ex14", 14), ("ex05", 5)])
def test_what_is_left_to_a_student_is_named(identifier, number, monkeypatch, capsys):
    """In a hand-out of the exercises: also by commands that expect errors of other kinds."""

    def unwritten(*arguments, **named):
        raise NotImplementedError(identifier)

    line = f"nanos2t: this needs exercise {number}, which is not written yet: "
    line += f"nanos2t exercises {number}\n"
    monkeypatch.setattr("nanos2t.cli.exercises.find_grader", unwritten)
    assert cli.main(["exercises"]) == 2
    assert capsys.readouterr().err == line
    monkeypatch.setattr("nanos2t.cli.exercises.exit_with", lambda code: nullcontext())
    assert cli.main(["exercises"]) == 1
    assert capsys.readouterr().err == line
    assert explain_unwritten(NotImplementedError("ex")) == explain_unwritten(OSError("ex14")) == ""


def test_another_package_than_the_one_beside_the_exercises(monkeypatch, capsys, tmp_path):
    """Verdicts on one and line numbers of the other would be mixed."""
    from exercises import folders

    monkeypatch.setattr(folders, "HERE", tmp_path / "tutorials" / "exercises")
    (tmp_path / "nanos2t").mkdir()
    assert cli.main(["exercises", "1"]) == 2
    assert f"python -m nanos2t in {tmp_path}, or pip install -e . there" in capsys.readouterr().err
