# pytest tests/tutorials/test_curves.py
"""The curves that are drawn from logs of runs that were stopped, and the picture."""

import json
import sys
from pathlib import Path

import curves
import pytest


def log(folder: Path, *lines: dict) -> Path:
    folder.mkdir(parents=True)
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


LINES = [
    {"step": 10, "loss": 3.0, "seconds": 1.0, "learning_rate": 1e-4, "tokens_per_second": 5},
    {"step": 20, "loss": 2.0, "seconds": 2.0, "learning_rate": 2e-4, "dev_loss": 2.5, "exact": 0.1},
]


def test_a_panel_for_each_metric(tmp_path):
    first = curves.read_log(log(tmp_path / "a", *LINES))
    second = curves.read_log(log(tmp_path / "b", {"step": 10, "loss": 4.0, "learning_rate": 1e-4}))
    actual = curves.make_panels({"a": first, "b": second})
    assert list(actual) == ["loss", "exact", "learning_rate"]
    assert actual["loss"] == {
        "a": ([10, 20], [3.0, 2.0]), "a, dev": ([20], [2.5]), "b": ([10], [4.0])
    }  # fmt: skip
    assert list(actual["exact"]) == ["a"] and actual["learning_rate"]["a"] == (
        [10, 20],
        [1e-4, 2e-4],
    )


def test_a_step_done_twice_counts_as_the_last(tmp_path):
    lines = curves.read_log(
        log(tmp_path / "a", *LINES, {"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5})
    )
    assert [(line["step"], line["loss"]) for line in lines] == [(10, 1.0), (20, 0.5)]


def test_a_line_that_was_not_written_to_its_end_does_not_count(tmp_path):
    path = log(tmp_path / "a", *LINES)
    whole = curves.read_log(path)
    path.write_text(path.read_text() + '{"step": 30, "lo')
    assert curves.read_log(path) == whole


def test_names_tell_the_runs_apart():
    assert curves.name_runs([Path("/x/a/log.jsonl"), Path("/x/b/log.jsonl")]) == ["a", "b"]
    assert curves.name_runs([Path("/x/a/log.jsonl"), Path("/y/a/log.jsonl")]) == ["x/a", "y/a"]
    assert curves.name_runs([Path("/x/a/log.jsonl")]) == ["a"]


def test_the_picture(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    path = log(tmp_path / "a", *LINES)
    picture = tmp_path / "curves.png"
    monkeypatch.setattr(sys, "argv", ["curves.py", str(path), str(path.parent), "-o", str(picture)])
    curves.main()
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 5000


@pytest.mark.parametrize(
    "text", ["", "no json\n", '{"loss": 1}\n', "[1]\n", '{"step": "1"}\n', '{"step": 1}\n']
)
def test_what_is_no_log(tmp_path, monkeypatch, capsys, text):
    path = tmp_path / "log.jsonl"
    path.write_text(text + "\n")
    for name in path, tmp_path / "gone.jsonl":
        monkeypatch.setattr(sys, "argv", ["curves.py", str(name), "-o", str(tmp_path / "x.png")])
        with pytest.raises(SystemExit) as stop:
            curves.main()
        assert stop.value.code == 2 and str(name) in capsys.readouterr().err
