"""A work folder for the tests of the exercises."""

from pathlib import Path

import pytest
from exercises import folders


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A work folder of a test's own, empty."""
    monkeypatch.setattr(folders, "WORK", tmp_path / "work")
    folders.WORK.mkdir()
    return folders.WORK
