# pytest tests/cli/test_demo.py
"""nanos2t/cli/demo.py: the bundled recording in each language."""

import shutil
from pathlib import Path

import nanos2t
from nanos2t.transcription import loading
from nanos2t.transcription.loading import BUNDLED


def test_demo(run, clips, monkeypatch):
    """A line for each language on stdout, everything else on stderr."""
    shutil.copytree(BUNDLED, "assets/spoken-numbers")
    monkeypatch.setattr(loading, "BUNDLED", Path("assets/spoken-numbers").absolute())
    code, out, err = run("demo")
    assert (code, out) == (1, []) and "sample.wav" in err[-1]
    shutil.copy(clips[1], "assets/sample.wav")
    code, out, err = run("demo")
    stt = nanos2t.load()
    expected = [
        f"{language} {stt.transcribe(clips[1], language=language)}".split()
        for language in stt.languages
    ]
    assert code == 0 and [line.split() for line in out] == expected and len(out) > 2
    assert "sample.wav" in err[0] and len(err) == 2
