# pytest tests/cli
"""Shared by the tests of the command line."""

from pathlib import Path

import pytest
from helpers.tiny import SOUNDS, write

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.transcription.transcriber import SpeechToText


@pytest.fixture(scope="module")
def stt(model: Path) -> SpeechToText:
    return nanos2t.load(model)


@pytest.fixture
def clips(tmp_path: Path, monkeypatch) -> list[str]:
    """a.wav ... d.wav in the current folder, of different lengths and with different texts."""
    monkeypatch.chdir(tmp_path)
    return [write(Path(f"{name}.wav"), SOUNDS[i]).name for name, i in zip("abcd", (0, 1, 3, 5))]


@pytest.fixture
def run(capsys, model: Path):
    """Runs `nanos2t` -> exit code, lines on stdout, lines on stderr. The model is the tiny one."""

    def run(*arguments: object, tiny: bool = True) -> tuple[int, list[str], list[str]]:
        more = ["--model", str(model)] if tiny and arguments[0] == "transcribe" else []
        code = cli.main([*map(str, arguments), *more])
        stderr = capsys.readouterr()
        assert "Traceback" not in stderr.err and not stderr.out[-1:].strip(), (
            "the last line has no end"
        )
        for line in stderr.err.splitlines():
            assert line.startswith("nanos2t: ") and len(line) < 400, line
        return code, stderr.out.splitlines(), stderr.err.splitlines()

    return run


@pytest.fixture
def no_model(monkeypatch):
    """The model must not be needed."""
    monkeypatch.setattr(nanos2t, "load", lambda *_, **__: pytest.fail("the model was loaded"))
