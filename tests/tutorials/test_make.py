# pytest tests/tutorials/test_make.py
"""What `nanos2t exercises make` writes again, and what it leaves."""

import re

import pytest
from exercises import folders, make
from exercises.course import EXERCISES

EXERCISE = EXERCISES[0]
KEY = (folders.KEYS / f"{EXERCISE.id}.json").read_text(encoding="utf-8")
NUMBER = re.search(r"\d\.\d{6,}", KEY).group()


def change(number: str, factor: float) -> str:
    return KEY.replace(number, f"{float(number) * factor:.9f}", 1)


def make_key(present: str, folder, monkeypatch) -> str:
    monkeypatch.setattr(folders, "KEYS", folder)
    (folder / f"{EXERCISE.id}.json").write_text(present, encoding="utf-8")
    return make.make_key(EXERCISE)


def test_other_last_digits_stay_in_a_key(tmp_path, monkeypatch):
    """They depend on the processor: whoever has another one changes no file."""
    present = change(NUMBER, 1 + 1e-7)
    assert present != KEY
    assert make_key(present, tmp_path, monkeypatch) == present


@pytest.mark.parametrize(
    "present",
    [
        pytest.param(change(NUMBER, 1 + 1e-4), id="another number"),
        pytest.param(KEY.replace('"silence"', '"no silence"'), id="another case"),
        pytest.param(KEY.replace("audio:normalise", "audio:normalize"), id="another function"),
        pytest.param(KEY.replace("[0.0, 0.0, 0.0", "[0.0, 0.0"), id="another shape"),
        pytest.param(KEY.replace("0.0]", "null]"), id="no number"),
        pytest.param("<<<<<<< HEAD\n" + KEY, id="no JSON"),
        pytest.param("[]", id="no key"),
        pytest.param('{"audio:normalise": {"": {"silence": 1}}}', id="no parts"),
        pytest.param('{"audio:normalise": {"": {"silence": {"": [[1], 2]}}}}', id="no array"),
    ],
)
def test_whatever_is_more_than_last_digits_is_written_again(present, tmp_path, monkeypatch):
    assert present != KEY
    made = make_key(present, tmp_path, monkeypatch)
    assert made != present
    assert make_key(made, tmp_path, monkeypatch) == made
