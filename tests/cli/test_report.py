# pytest tests/cli/test_report.py
"""nanos2t/cli/report.py: it writes one page and nothing else, or says why not."""

import os
import shutil

from helpers.report import SAMPLE, content

from nanos2t.cli import main as cli
from nanos2t.inspection import report


def test_command(capsys, tmp_path):
    page = tmp_path / "a.html"
    pair = tmp_path / "b.html"
    assert cli.main(["report", str(SAMPLE), "-o", str(page)]) == 0
    more = ["--compare", str(page), "--language", "German", "--num-beams", "2"]
    assert cli.main(["report", str(SAMPLE), "-o", str(pair), *more]) == 0
    assert capsys.readouterr() == ("", "") and sorted(tmp_path.iterdir()) == [page, pair]

    left, right = content(pair.read_text("utf-8"))["runs"]
    assert (left["language"], left["num_beams"]) == ("de", 2) and right["title"] == "sample.wav"
    assert right == content(page.read_text("utf-8"))["runs"][0]

    for arguments, code, text in [
        ([str(SAMPLE)], 2, "-o"),
        ([str(SAMPLE), "-o", "x", "--compare", str(SAMPLE)], 2, "sample.wav"),
        ([str(SAMPLE), "-o", "x", "--language", "Klingon"], 2, "Klingon"),
        (["missing.wav", "-o", str(tmp_path / "c.html")], 1, "missing.wav"),
        ([str(SAMPLE), "-o", str(tmp_path / "no" / "c.html")], 1, "c.html"),
    ]:
        assert cli.main(["report", *arguments]) == code
        out, err = capsys.readouterr()
        assert out == "" and text in err and err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [page, pair]


def test_a_part(capsys, tmp_path, monkeypatch):
    """A line says what is left out, unless the end was chosen; the page says it in any case."""
    page = tmp_path / "a.html"
    arguments = ["report", str(SAMPLE), "-o", str(page)]
    assert cli.main([*arguments, "--start", "0.9", "--end", "1.9"]) == 0
    assert capsys.readouterr() == ("", "")
    [run] = content(page.read_text("utf-8"))["runs"]
    assert (run["start"], run["seconds"]) == (0.9, 1) and run["total_seconds"] > 3
    assert [piece["text"] for piece in run["pieces"]] == ["four"]

    monkeypatch.setattr(report, "DEFAULT_SECONDS", 2.0)
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == "" and "0.00 s to 2.00 s of 3.31 s are shown: --start" in err

    for options, code, text in [
        (["--start", "x"], 2, "--start: 'x', expected seconds"),
        (["--end", "nan"], 2, "--end: 'nan', expected seconds"),
        (["--start", "-1"], 2, "--start"),
        (["--end", "inf"], 2, "--end: 'inf'"),
        (["--start", "2", "--end", "2"], 2, "--end is 2 s, expected more than --start"),
        (["--start", "50"], 1, "begins at 50.0 s, expected less than 3.31 s"),
    ]:
        assert cli.main([*arguments, *options]) == code
        out, err = capsys.readouterr()
        assert out == "" and text in err and err.count("\n") == 1


def test_the_page_replaces_no_recording(tmp_path, capsys):
    sound = tmp_path / "a.wav"
    shutil.copy(SAMPLE, sound)
    (tmp_path / "link").symlink_to("a.wav")
    os.link(sound, tmp_path / "hard")
    for page in (sound, tmp_path / "link", tmp_path / "hard"):
        assert cli.main(["report", str(sound), "-o", str(page)]) == 2
        assert "would be written over the input" in capsys.readouterr().err
    assert sound.read_bytes() == SAMPLE.read_bytes()
