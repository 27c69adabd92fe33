# pytest tests/cli/test_inputs.py
"""nanos2t/cli/inputs.py: which files are meant by the names of folders, patterns and lists."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import SOUNDS, write

from nanos2t.cli.inputs import count_seconds, find_files, read_list

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def test_folders_and_patterns():
    touch(
        "in/b.wav",
        "in/deep/a.FLAC",
        "in/notes.txt",
        "x1.wav",
        "x2.wav",
        "x3.mp3",
        "[x].wav",
        "none/a.txt",
    )
    files, errors = find_files(
        ["x2.wav", "in", "x*.wav", "in/**/*.FLAC", "[x].wav", "gone.wav", "-"]
    )
    inside = ["in/b.wav", "in/deep/a.FLAC"]
    assert files == ["x2.wav", *inside, "x1.wav", "x2.wav", inside[1], "[x].wav", "gone.wav", "-"]
    assert errors == []
    files, errors = find_files(["none", "y*", "x1.wav"])
    assert files == ["x1.wav"] and [str(error).partition(": ")[0] for error in errors] == [
        "none",
        "y*",
    ]


def test_lists():
    Path("list").write_bytes("a b.wav\n\n ü.wav\nno end".encode() + b"\xff")
    assert read_list("list") == ["a b.wav", " ü.wav", os.fsdecode(b"no end\xff")]
    with pytest.raises(ValueError, match="--files-from gone: No such file"):
        read_list("gone")


def test_seconds():
    write(Path("a.wav"), SOUNDS[1])
    write(Path("b.wav"), np.zeros(16000))
    Path("c.wav").write_text("no audio")
    assert count_seconds(["a.wav", "b.wav", "c.wav", "gone", "-"]) == 3
