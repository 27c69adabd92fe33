# pytest tests/cli/test_console.py
"""nanos2t/cli/console.py: terminals, pipes, encodings, and progress bars."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import ROOT, python
from helpers.tiny import SOUNDS, write

from nanos2t.cli import console
from nanos2t.cli import main as cli
from nanos2t.transcription.transcriber import SpeechToText


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_for_terminals(model, clips, monkeypatch, capsys):
    """Seconds of audio, of all that there are, how fast, and how long it takes yet."""
    arguments = ["transcribe", *clips[:3], "gone.wav", "--batch-size", "1", "--model", str(model)]
    write(Path(clips[2]), np.tile(SOUNDS[3], 5))  # 3.5 s
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main(arguments) == 1
    shown = sys.stderr.getvalue()
    assert "| 0/5 s of audio, " in shown and "| 5/5 s of audio, " in shown and "left" in shown
    assert shown.count("nanos2t: gone.wav") == 1
    assert "\rnanos2t: gone.wav" in shown or "\nnanos2t: gone.wav" in shown, (
        "the line does not begin at the left"
    )
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert cli.main([*arguments, "--quiet"]) == 1
    assert "of audio" not in sys.stderr.getvalue() and sys.stderr.getvalue().count("\n") == 1
    assert len(capsys.readouterr().out.splitlines()) == 8


def test_stdout_that_takes_nothing(model, clips, monkeypatch, capsys):
    arguments = ["transcribe", *clips, "--batch-size", "1", "--model", str(model)]
    reading, writing = os.pipe()
    os.close(reading)
    full = open("/dev/full", "w")  # noqa: SIM115
    for stdout, line in [
        (os.fdopen(writing, "w"), ""),
        (full, "nanos2t: stdout: No space left"),
    ]:
        for command in arguments, ["--help"]:
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", stdout)
                assert cli.main(command) == (1 if command is arguments else 0)
        assert capsys.readouterr().err.startswith(line)
        stdout.close()


def test_no_stdout_and_no_stderr(model, clips, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    arguments = ["gone.wav", clips[0], "--output", "out", "--model", str(model)]
    assert cli.main(["transcribe", *arguments]) == 1
    assert os.listdir("out") == ["a.txt"]


def test_a_closed_stdout_is_an_error(model, clips, monkeypatch, capsys):
    """Unless all that is asked for is written to files."""
    transcribe = ["transcribe", clips[0], "--model", str(model)]
    align = ["align", clips[0], "w7", "--model", str(model)]
    for command in transcribe, [*transcribe, "--format", "json"], align, ["--version"]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            assert cli.main(command) == 1
        assert capsys.readouterr().err.endswith("nanos2t: stdout: closed\n")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert cli.main([*transcribe, "--output", "out"]) == 0
    assert capsys.readouterr() == ("", "") and os.listdir("out") == ["a.txt"]


def run_with_descriptors(changes: str, *arguments: str) -> tuple[int, str]:
    """The exit code of `nanos2t` in a shell that changes descriptors, and its stdout."""
    command = f'exec "$0" -m nanos2t "$@" {changes}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        stdout=subprocess.PIPE,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("changes", ["2>/dev/full", "2>&- <&-"])
def test_a_stderr_that_takes_nothing_stops_nothing(stt, model, clips, changes):
    """Loading holds back what its library writes there; a file must not get the number 2."""
    write(Path("b.mp3"), SOUNDS[3], subtype="MPEG_LAYER_III")
    arguments = ["transcribe", "gone.wav", "b.mp3", clips[0], "--model", str(model)]
    expected = f"\n{stt.transcribe('b.mp3')}\n{stt.transcribe(clips[0])}\n"
    assert run_with_descriptors(changes, *arguments) == (1, expected)


def test_text_that_stdout_has_no_bytes_for(model, stt, clips, monkeypatch):
    name = os.fsdecode(b"\xff \xfc.wav")
    shutil.copy(clips[0], name)
    tokens = [6, 2]  # größer
    monkeypatch.setattr(
        SpeechToText, "decode_tokens", lambda self, found: self.tokenizer.decode(tokens)
    )
    for encoding, expected in (
        ("ascii", "gr\\xf6\\xdfer"),
        ("utf-8", "größer"),
        ("latin-1", "größer"),
    ):
        for format in "txt", "json":
            written = io.BytesIO()
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
            arguments = ["--format", format, "--output", "o", "--model", str(model)]
            assert cli.main(["transcribe", name, *arguments]) == 0
            assert written.getvalue().decode(encoding) == expected + "\n"
            [file] = [path for path in Path("o").iterdir() if path.suffix == f".{format}"]
            assert "größer" in file.read_text(encoding="utf-8")
        with monkeypatch.context() as patch:
            stdout = io.TextIOWrapper(io.BytesIO(), "utf-8")
            patch.setattr(sys, "stdout", stdout)
            assert cli.main(["transcribe", name, "--format", "json", "--model", str(model)]) == 0
        for content in file.read_bytes(), stdout.buffer.getvalue():
            actual = json.loads(content.decode("utf-8"))
            assert actual["text"] == "größer" and actual["audio"] == name


def test_a_reader_that_has_enough(model, clips):
    reading, writing = os.pipe()
    arguments = ["transcribe", *clips, "--batch-size", "1", "--model", str(model)]
    process = python("-m", "nanos2t", *arguments, stdout=writing)
    os.close(writing)
    os.close(reading)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (1, b"")


def test_controls_are_escaped_on_a_terminal(capsys, monkeypatch):
    text = "a\x1b]0;title\x07\x9b31m\x7f\tü\n"
    console.log_stderr(text)
    assert capsys.readouterr().err == "nanos2t: a\\x1b]0;title\\x07\\x9b31m\\x7f ü\n"
    console.write_stdout(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    console.write_stdout(text)
    assert capsys.readouterr().out == "a\\x1b]0;title\\x07\\x9b31m\\x7f\tü\n"
