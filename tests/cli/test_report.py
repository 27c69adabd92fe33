# pytest tests/cli/test_report.py
"""nanos2t/cli/report.py: it writes one page and nothing else, or says why not."""

from helpers.report import SAMPLE, content

from nanos2t.cli import main as cli


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
