# pytest tests/training/test_reporter.py
"""How far a run is, in a log and on a terminal."""

import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.processes import python
from helpers.training import command_line, tiny_run

from nanos2t.cli import main as cli
from nanos2t.training import reporter as training_reporter
from nanos2t.training.reporter import Reporter


def metrics(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "loss": 2.5, "tokens_per_second": 7} | more


def test_lines_come_at_once_and_then_at_intervals(caplog, monkeypatch):
    clock = iter(range(0, 10_000, 3))
    monkeypatch.setattr(training_reporter.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO), Reporter(4, 40) as reporter:
        for step in range(5, 41):
            reporter.report_step(metrics(step))
    steps = [int(re.match(r"step (\d+) of 40: loss 2.5, ", line)[1]) for line in caplog.messages]
    assert steps[0] == 5 and steps[-1] == 40 and 8 < len(steps) < 25
    assert caplog.messages[-1].endswith(" 0.0 min left")


def test_without_a_stderr_there_is_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with Reporter(0, 1) as reporter:
        reporter.report_step(metrics(1))


def test_a_step_that_takes_long_is_no_silence(caplog, monkeypatch):
    monkeypatch.setattr(training_reporter, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.INFO), Reporter(0, 2) as reporter:
        assert list(reporter.watch(lambda step: [step, step], 1)) == [1, 1]
        reporter.report_step(metrics(2, dev_loss=0.25, exact=0.5))
    assert caplog.messages[:2] == ["step 2 of 2: batch 1", "step 2 of 2: batch 2"]
    assert "loss 2.5, dev_loss 0.25, exact 0.5, " in caplog.messages[2]


def test_steps_that_are_soon_over_show_their_loss(caplog, monkeypatch):
    """Lines are due once in several steps: none of them may be spent on a batch."""
    now = [0.0]
    monkeypatch.setattr(training_reporter.time, "monotonic", lambda: now[0])

    def losses_of(step: int):
        now[0] += 4.0
        yield step

    with caplog.at_level(logging.INFO), Reporter(0, 40) as reporter:
        for step in range(40):
            assert list(reporter.watch(losses_of, step)) == [step]
            reporter.report_step(metrics(step + 1))
    assert len(caplog.messages) > 10
    assert all(": loss 2.5, " in line for line in caplog.messages)


def test_a_run_into_a_log_is_never_silent(tmp_path: Path, capsys):
    """A log has lines without control characters, and names the folder first and last."""
    config = tiny_run(tmp_path, steps=3, validate_every=2)
    assert cli.main(command_line(config)) == 0
    err = capsys.readouterr().err
    assert "\r" not in err and "\x1b" not in err and "Traceback" not in err
    lines = [line.removeprefix("nanos2t: ") for line in err.splitlines()]
    assert all(line.startswith("nanos2t: ") for line in err.splitlines())
    about_run = [line for line in lines if line.startswith(config.output)]
    assert about_run[0] == f"{config.output}: the folder of the run, of 3 steps"
    assert about_run[-1] == lines[-1] == f"{config.output}: done, 3 steps; the models: best, last"
    assert "a.jsonl: reading the recordings of 8 lines" in err
    for begin in ("step 1 of 3: loss ", "step 2 of 3: validating", "step 3 of 3: loss "):
        assert [line for line in lines if line.startswith(begin)], begin

    # Whoever calls it from Python sees no more than before.
    logger = logging.getLogger("nanos2t")
    assert logger.handlers == [] and logger.level == logging.NOTSET


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar(tmp_path: Path):
    config = replace(tiny_run(tmp_path, steps=3), dev=None, best="dev_loss")
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    chunks = []

    def read() -> None:
        while True:
            try:
                chunks.append(os.read(controller, 1000))
            except OSError:
                return

    reading = threading.Thread(target=read)
    reading.start()
    with python("-m", "nanos2t", *command_line(config), stderr=terminal) as child:
        os.close(terminal)
        assert child.wait(timeout=120) == 0
    reading.join(timeout=10)
    text = b"".join(chunks).decode()
    assert "step 1 of 3" not in text and "3/3" in text and "0/3" in text, text
    assert f"{config.output}: done, 3 steps; the models: last" in text


@pytest.mark.slow
def test_the_first_line_comes_before_the_run_is_over(tmp_path: Path):
    config = replace(tiny_run(tmp_path, steps=10**6), dev=None, best="dev_loss")
    with python("-m", "nanos2t", *command_line(config)) as child:
        try:
            for line in iter(child.stderr.readline, b""):
                if line.startswith(b"nanos2t: step 1 of 1000000: loss "):
                    break
            else:
                pytest.fail("no line of a step")
            assert child.poll() is None
        finally:
            child.kill()
