# pytest tests/training/test_manifest.py
"""Manifests: what a line may say, what is refused, and which part of a recording is read."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nanos2t.training import manifest
from nanos2t.training.manifest import Item


def write(folder: Path, *lines: object) -> Path:
    path = folder / "a.jsonl"
    path.write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    )
    return path


def test_lines_become_items_with_paths_beside_the_manifest(tmp_path: Path):
    path = write(
        tmp_path,
        {"audio": "x/ä.wav", "text": "grün", "language": "de", "start": 1, "end": 2.5},
        "",
        {"audio": "/abs.wav", "text": "", "language": None},
    )
    first, second = manifest.read_manifest(path)
    assert first == Item(str(tmp_path / "x/ä.wav"), "grün", "de", 1, 2.5)
    assert second == Item("/abs.wav", "", None, 0.0, None)
    assert str(first).endswith("ä.wav from 1 s to 2.5 s") and str(second) == "/abs.wav"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: .*expected an object"),
        ({"text": "a"}, "line 2: audio is None, expected a string"),
        ({"audio": "a.wav"}, "line 2: text is None"),
        ({"audio": "a.wav", "text": 3}, "line 2: text is 3"),
        ({"audio": "a.wav", "text": "a", "language": 3}, "line 2: language is 3"),
        (
            {"audio": "a.wav", "text": "a", "start": -1},
            "line 2: from -1 to 'its end', expected 0 <= start < end",
        ),
        ({"audio": "a.wav", "text": "a", "start": 2, "end": 2}, "line 2: from 2 to 2"),
        ({"audio": "a.wav", "text": "a", "end": True}, "line 2: from 0.0 to True"),
        ('{"audio": "a.wav", "text": "a", "start": NaN}', "line 2: from nan"),
        ({"audio": "a.wav", "text": "a", "start": 10**400}, "line 2: from 1000"),
        ({"audio": "a.wav", "text": "a", "end": 10**400}, "line 2: from 0.0 to 1000"),
        ({"audio": "a.wav", "text": "a", "end": 1e300}, r"line 2: from 0.0 to 1e\+300"),
        ({"audio": "a.wav", "text": "a", "end": -1}, "line 2: from 0.0 to -1"),
        ({"audio": "a.wav", "text": "a", "end": "2"}, "line 2: from 0.0 to '2'"),
        ('{"audio": "a.wav", "text": "a", "end": Infinity}', "line 2: from 0.0 to inf"),
        ('{"audio": "a.wav", "text": "a", "start": -Infinity}', "line 2: from -inf"),
        ('{"audio": "a.wav", "text": "a", "start": 1, "end": NaN}', "line 2: from 1 to nan"),
        (
            '{"audio": "a.wav", "text": "a\\ud800"}',
            "line 2: text is 'a.ud800', expected whole characters",
        ),
    ],
)
def test_a_line_that_is_no_item_is_refused(tmp_path: Path, line, reason):
    with pytest.raises(ValueError, match=reason):
        manifest.read_manifest(write(tmp_path, {"audio": "a.wav", "text": "a"}, line))


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="none.jsonl: No such file"):
        manifest.read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="no lines"):
        manifest.read_manifest(write(tmp_path, "", " "))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="b.jsonl: .*expected a manifest"):
        manifest.read_manifest(tmp_path / "b.jsonl")


def test_a_key_that_is_there_twice_is_refused(tmp_path: Path):
    line = '{"audio": "a.wav", "text": "a", "text": "b"}'
    path = write(tmp_path, {"audio": "a.wav", "text": "a"}, line)
    with pytest.raises(ValueError, match="a.jsonl, line 2: the key 'text' is there twice"):
        manifest.read_manifest(path)


def test_keys_that_are_not_read_are_said(tmp_path: Path, caplog):
    path = write(tmp_path, {"audio": "a.wav", "text": "a", "langauge": "de", "speaker": "ann"})
    with caplog.at_level(logging.WARNING, "nanos2t"):
        assert manifest.read_manifest(path)[0].language is None
    assert "not read: langauge, speaker" in caplog.text


def test_load_reads_the_part_that_is_meant(tmp_path: Path):
    file = tmp_path / "a.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 2)).astype(np.float32)
    soundfile.write(file, samples, 1000, subtype="FLOAT")
    mono = samples.mean(1)
    assert np.allclose(manifest.load_item(Item(str(file), ""), 1000), mono)
    assert np.allclose(
        manifest.load_item(Item(str(file), "", None, 0.5, 1.25), 1000), mono[500:1250]
    )
    assert np.allclose(manifest.load_item(Item(str(file), "", None, 3.0), 1000), mono[3000:])
    assert len(manifest.load_item(Item(str(file), "", None, 0.5, 1.25), 2000)) == 1500


@pytest.mark.parametrize("end", [4.001, 4.01, 4.05])
def test_an_end_some_milliseconds_late_is_the_end_of_the_file(tmp_path: Path, end: float):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 1000, subtype="FLOAT")
    loaded = manifest.load_item(Item(str(tmp_path / "a.wav"), "", None, 3.0, end), 1000)
    np.testing.assert_array_equal(loaded, samples[3000:])


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 4.1), (4.0, None), (4.0, 4.02), (5.0, 6.0), (0.0, 1e9)]
)
def test_a_part_behind_the_end_is_refused(tmp_path: Path, start, end):
    file = tmp_path / "a.wav"
    soundfile.write(file, np.zeros(4000), 1000)
    with pytest.raises(
        ValueError, match="a.wav: 4 s long, expected a recording that contains the part from"
    ):
        manifest.load_item(Item(str(file), "", None, start, end), 1000)


def test_load_names_a_file_that_is_missing_or_holds_nan(tmp_path: Path):
    with pytest.raises(ValueError, match="none.wav: No such file"):
        manifest.load_item(Item(str(tmp_path / "none.wav"), "", None, 0.0, 1.0), 1000)
    soundfile.write(tmp_path / "nan.wav", np.full(2000, np.nan), 1000, subtype="FLOAT")
    for end in (None, 1.0):
        with pytest.raises(ValueError, match="nan.wav: expected finite samples"):
            manifest.load_item(Item(str(tmp_path / "nan.wav"), "", None, 0.0, end), 1000)


@pytest.mark.parametrize("kind", ["MP3", "FLAC", "OGG"])
def test_a_part_that_is_not_in_the_file_any_more_is_refused(tmp_path: Path, kind: str):
    sound = 0.1 * np.random.default_rng(1).standard_normal(20 * 16_000)
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, sound, 16_000, format=kind)
    seconds = soundfile.info(path).duration
    for item in Item(str(path), "", None, 10.0, 12.0), Item(str(path), "", None, 18.0, None):
        expected = ((item.end or seconds) - item.start) * 16_000
        assert abs(len(manifest.load_item(item, 16_000)) - expected) <= 1152
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    assert len(manifest.load_item(Item(str(path), "", None, 1.0, 3.0), 16_000)) == 32_000
    with pytest.raises(ValueError, match=f"{path}: "):
        manifest.load_item(Item(str(path), "", None, 10.0, 12.0), 16_000)


def test_a_line_that_nests_without_an_end_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="a.jsonl, line 1: no JSON"):
        manifest.read_manifest(write(tmp_path, "[" * 200_000))


def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = ['\ufeff{"audio": "a.wav", "text": "one"}', "", '{"audio": "b", "text": "two"}', ""]
    path.write_bytes("\r\n".join(lines).encode())
    assert [item.text for item in manifest.read_manifest(path)] == ["one", "two"]
