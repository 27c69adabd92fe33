# pytest tests/tutorials/test_manifests.py
"""The split, the texts and the rows of manifests.py. The recordings here are tones."""

import sys
from pathlib import Path

import manifests
import numpy as np
import pytest
import soundfile

from nanos2t.training import manifest


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for speaker in "ann", "bob":
        for digit in range(10):
            for index in (0, 9, 10, 45, 49):
                tone = 0.3 * np.sin(np.arange(700 + 40 * digit + index) * (0.2 + 0.1 * digit))
                soundfile.write(folder / f"{digit}_{speaker}_{index}.wav", tone, manifests.RATE)
    return folder


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["manifests.py", *map(str, arguments)])
    manifests.main()


def test_a_line_for_each_recording(recordings, tmp_path, monkeypatch):
    run(monkeypatch, recordings, tmp_path)
    parts = {
        part: manifest.read_manifest(tmp_path / f"{part}.jsonl")
        for part in ("test", "dev", "train")
    }
    assert {part: len(items) for part, items in parts.items()} == {
        "test": 20,
        "dev": 40,
        "train": 40,
    }
    for part, indices in ("test", {0}), ("dev", {9, 45}), ("train", {10, 49}):
        assert {int(Path(item.audio).stem.split("_")[2]) for item in parts[part]} == indices
        for item in parts[part]:
            assert item.text == manifests.DIGITS[int(Path(item.audio).name[0])]
            assert len(manifest.load_item(item, manifests.RATE)) >= 700


def test_rows_have_each_recording_once_and_one_speaker(recordings):
    actual = manifests.find_recordings(recordings, "dev")
    rows = list(manifests.draw_rows(actual, 4, np.random.default_rng(0)))
    assert sorted(recording for row in rows for recording in row) == sorted(actual)
    assert all(len({speaker for _, speaker, _ in row}) == 1 for row in rows)
    assert {len(row) for row in rows} == {1, 2, 3, 4}


def test_joined_recordings(recordings, tmp_path, monkeypatch):
    for name in "a", "b":
        run(monkeypatch, recordings, tmp_path / name, "--join", 3, "--times", 2)
    train, dev = (
        manifest.read_manifest(tmp_path / "a" / f"{part}.jsonl") for part in ("train", "dev")
    )
    words = [word for item in train for word in item.text.split()]
    assert len(words) == 80 and sorted(set(words)) == sorted(manifests.DIGITS)
    assert sum(len(item.text.split()) for item in dev) == 40
    for item in train:
        waveform = manifest.load_item(item, manifests.RATE)
        assert len(waveform) > 1000 * len(item.text.split()) and abs(waveform).max() < 1
    again = manifest.read_manifest(tmp_path / "b" / "train.jsonl")
    assert [item.text for item in again] == [item.text for item in train]
    assert Path(again[3].audio).read_bytes() == Path(train[3].audio).read_bytes()


def test_a_folder_without_recordings(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, tmp_path / "out")
    assert "no recordings named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("1_theo_new_5.wav", [], "1_theo_new_5.wav: expected {digit}_{speaker}_{index}.wav"),
        ("1_theo_x.wav", [], "1_theo_x.wav: expected {digit}_{speaker}_{index}.wav"),
        ("1_theo_5.wav", ["--join", 2], "1_theo_5.wav: "),
        ("1_theo_5.wav", ["--join", -1], "expected --join 0 or more"),
        ("1_theo_5.wav", ["--times", 0], "--times 1 or more"),
    ],
)
def test_what_can_not_be_done_is_said_in_a_line(
    tmp_path, monkeypatch, capsys, name, more, expected
):
    (tmp_path / name).write_text("no sound")
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, tmp_path, tmp_path / "out", *more)
    assert stop.value.code == 2 and expected in capsys.readouterr().err.splitlines()[-1]


def test_a_file_is_no_folder_to_write_to(recordings, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("")
    with pytest.raises(SystemExit):
        run(monkeypatch, recordings, tmp_path / "out")
    assert "out" in capsys.readouterr().err.splitlines()[-1]
