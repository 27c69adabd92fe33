# pytest tests/cli/test_exercises.py
"""nanos2t/cli/exercises.py: which checkout's exercises are meant. tests/tutorials/ has the rest."""

import sys

import pytest

from nanos2t.cli import exercises
from nanos2t.cli import main as cli
from nanos2t.cli.console import CommandError


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
    monkeypatch.setattr(exercises, "import_module", imported.append)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(below)
    exercises.find_grader()
    assert imported == ["exercises.grader"] and sys.path[0] == str(no_checkout / "tutorials")
