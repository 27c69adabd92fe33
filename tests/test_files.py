# pytest tests/test_files.py
"""Files are there whole or not at all, however the process that writes them ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanos2t import files as atomic


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_text("old")
    return path


def test_text_and_copies_replace_what_was_there(path: Path):
    atomic.write_text(path, "grüß\ud800")
    assert path.read_bytes() == "grüß\\ud800".encode()
    (path.parent / "b").write_text("another")
    atomic.copy_file(path.parent / "b", path)
    assert path.read_text() == "another"
    atomic.copy_file(path, path.parent / "." / "a")
    assert path.read_text() == "another" and sorted(os.listdir(path.parent)) == ["a", "b"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("failed writing")]
)
def test_what_can_not_be_written_is_kept(path: Path, error: Exception):
    def write(part: Path) -> None:
        part.write_text("ne")
        raise error

    with pytest.raises(
        ValueError, match="a: cannot be written .(No space|failed).*what was there is kept"
    ):
        atomic.write_atomically(path, write)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a"]
    with pytest.raises(ValueError, match="gone/a: cannot be written .No such file"):
        atomic.write_text(path.parent / "gone" / "a", "new")
    with pytest.raises(ValueError, match="a: cannot be written .No such file"):
        atomic.copy_file(path.parent / "gone", path)
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a"]


def test_a_killed_write_leaves_the_old_file(path: Path):
    code = """import os, signal, sys; from pathlib import Path; from nanos2t import files as atomic
def write(part):
    part.write_text("ne"); os.kill(os.getpid(), signal.SIGKILL)
atomic.write_atomically(Path(sys.argv[1]), write)"""
    assert (
        subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode
        == -signal.SIGKILL
    )
    assert path.read_text() == "old"
    atomic.write_text(path, "new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a"]


def test_the_last_file_of_a_group_is_moved_at_the_end(tmp_path: Path, monkeypatch):
    moved = []
    replace = os.replace

    def spy(source: Path, target: Path) -> None:
        moved.append(target.name)
        replace(source, target)

    def write_parts(partial: Path) -> None:
        for name in ("config.json", "a.json", "model.safetensors"):
            (partial / name).write_text(name)

    monkeypatch.setattr(os, "replace", spy)
    paths = atomic.write_group(tmp_path / "model", write_parts)
    assert moved == ["a.json", "model.safetensors", "config.json"]
    assert sorted(paths) == sorted((tmp_path / "model").iterdir())
    assert all(path.read_text() == path.name for path in paths)
