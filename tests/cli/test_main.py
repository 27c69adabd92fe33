# pytest tests/cli/test_main.py
"""nanos2t/cli/main.py: usage and exit codes, one line for an error and no traceback; signals."""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.processes import python

import nanos2t
from nanos2t.cli import main as cli
from nanos2t.training.stop_signals import STOP_SIGNALS
from nanos2t.transcription.transcriber import SpeechToText


def test_a_file_that_looks_like_an_option(capsys, clips, no_model):
    Path("-n.wav").write_bytes(Path(clips[0]).read_bytes())
    assert cli.main(["transcribe", "-n.wav", "-x"]) == 2
    message = "unrecognized arguments: -n.wav -x (a file? write ./-n.wav)"
    assert capsys.readouterr().err == f"nanos2t: {message} (nanos2t transcribe --help tells more)\n"

    # Where no file is expected, the name would be as wrong with "./" before it.
    assert cli.main(["demo", clips[0]]) == 2
    message = f"unrecognized arguments: {clips[0]} (nanos2t demo --help tells more)"
    assert capsys.readouterr().err == f"nanos2t: {message}\n"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", "COMMAND"),
        ("translate", "transcribe"),
        ("demo x", "x (nanos2t demo --help tells more)"),
        ("transcribe", "FILE"),
        ("transcribe a.wav --lang", "--lang"),
        ("transcribe -n.wav", "-n.wav (nanos2t transcribe --help tells more)"),
        ("transcribe a.wav --beams 3", "--beams"),
        ("transcribe a.wav --num-beams 0", "from 1 to 1000"),
        ("transcribe a.wav --num-beams -1", "--num-beams"),
        ("transcribe a.wav --num-beams 2.5", "from 1 to 1000"),
        ("transcribe a.wav --num-beams many", "from 1 to 1000"),
        ("transcribe a.wav --num-beams 1001", "from 1 to 1000"),
        (f"transcribe a.wav --num-beams {'9' * 5000}", "from 1 to 1000"),
        ("transcribe a.wav --batch-size 0", "from 1 to 1000"),
        ("transcribe a.wav --format doc", "'txt', 'srt', 'vtt', 'tsv', 'json'"),
        ("transcribe a.wav --dtype int4", "one of float32, float64, bfloat16, float16"),
        ("transcribe a.wav --device gpu", "one of auto, "),
        ("transcribe a.wav --device cuda:99", "one of auto, "),
        ("transcribe a.wav --words yes --format", "--format"),
        ("transcribe - a.wav -", "stdin"),
        ("transcribe - --files-from -", "stdin"),
        ("transcribe --files-from gone.txt", "--files-from gone.txt: No such file"),
        ("transcribe --files-from .", "--files-from .: Is a directory"),
        ("transcribe --files-from a.wav", "--files-from a.wav: not a text file"),
        ("transcribe a.wav --skip-existing", "--output"),
        ("transcribe a.wav --max-line-width 0", "from 1 to 1000"),
        ("align a.wav", "TEXT"),
        ("align", "FILE"),
    ],
    ids=lambda text: text[:40],
)
def test_usage(capsys, clips, no_model, line: str, expected: str):
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("nanos2t: ")
    assert expected in err.replace(
        "choose from txt, srt, vtt, tsv, json", "'txt', 'srt', 'vtt', 'tsv', 'json'"
    )


@pytest.mark.parametrize("line", ["--help", "transcribe --help", "info -h", "--version"])
def test_help(capsys, no_model, line: str):
    assert cli.main(line.split()) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.startswith(("usage: nanos2t", f"nanos2t {nanos2t.__version__}\n"))


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_interrupted(run, stt, clips, monkeypatch, number):
    """What is finished stays, on stdout and in files; the handlers are as before."""
    usual = signal.signal(number, signal.default_int_handler)  # else it may be ignored
    search = SpeechToText.transcribe_batch
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    calls = []

    def stop(self, *arguments):
        calls.append(len(arguments[0]))
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        return search(self, *arguments)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", stop)
    code, out, err = run("transcribe", *clips, "--batch-size", 1, "--output", "out")
    assert (code, err) == (130, ["nanos2t: interrupted"])
    assert out == [str(stt.transcribe(name)) for name in clips[:2]]
    assert sorted(os.listdir("out")) == ["a.txt", "b.txt"]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    signal.signal(number, usual)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_that_are_ignored_stay_so(run, clips, monkeypatch, number):
    """As nohup does with the signal of a closed terminal, and a script with Ctrl-C."""
    usual = signal.signal(number, signal.SIG_IGN)
    search = SpeechToText.transcribe_batch

    def go_on(self, *arguments):
        os.kill(os.getpid(), number)
        return search(self, *arguments)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", go_on)
    code, out, err = run("transcribe", *clips)
    assert (code, len(out), err) == (0, len(clips), [])
    assert signal.signal(number, usual) == signal.SIG_IGN


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs SIGHUP, which Windows lacks")
def test_a_closed_terminal_may_send_more_than_one_signal():
    interruption = cli.Interruption()
    try:
        with pytest.raises(KeyboardInterrupt):
            interruption(signal.SIGHUP, None)
        interruption(signal.SIGHUP, None)
        with pytest.raises(KeyboardInterrupt):
            interruption(signal.SIGINT, None)
    finally:
        interruption.clear_alarm()


@pytest.mark.parametrize("line", ["demo", "info", "transcribe a.wav", "align a.wav one"])
def test_in_a_checkout_without_its_virtual_environment(line: str):
    """Python finds none of the packages that nanos2t needs (-S): one line, no traceback."""
    process = python("-S", "-m", "nanos2t", *line.split())
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err.count(b"\n")) == (1, b"", 1)
    assert b" is not installed for " in err and b"virtual environment" in err


def test_in_a_folder_that_was_deleted(clips):
    """torch would end the program there."""
    program = (
        "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone');"
        "from nanos2t.cli import main as cli; sys.exit(cli.main(sys.argv[1:]))"
    )
    process = python("-c", program, "transcribe", os.path.abspath(clips[0]))
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, b"")
    assert err.startswith(b"nanos2t: the current folder: No such file") and err.count(b"\n") == 1


def test_a_missing_file_of_the_package_is_not_the_users_fault(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "nanos2t.transcription.loading", None)
    monkeypatch.delattr("nanos2t.transcription.loading", raising=False)  # of an earlier import
    with pytest.raises(ModuleNotFoundError, match="nanos2t.transcription.loading"):
        run("info")


def test_in_another_thread(model, clips):
    codes = []
    thread = threading.Thread(
        target=lambda: codes.append(cli.main(["transcribe", clips[0], "--model", str(model)]))
    )
    thread.start()
    thread.join()
    assert codes == [0]


def test_as_a_module_and_stdin(model, stt, clips):
    """And a pipe, which cannot seek, with a folder that is not the repository as the place."""
    process = python("-m", "nanos2t", "transcribe", "gone.wav", "-", "--model", str(model))
    out, err = process.communicate(Path(clips[1]).read_bytes(), timeout=300)
    assert (process.returncode, out.decode()) == (1, f"\n{stt.transcribe(clips[1])}\n")
    assert err.decode().startswith("nanos2t: gone.wav: ") and err.count(b"\n") == 1


def test_interrupted_while_it_waits(model, stt, clips):
    """Ctrl-C at a pipe that gives nothing: the first line is there already."""
    process = python(
        "-m", "nanos2t", "transcribe", clips[0], "-", "--batch-size", "1", "--model", str(model)
    )
    assert process.stdout.readline().decode() == f"{stt.transcribe(clips[0])}\n"
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    err = process.stderr.read()
    assert (process.wait(300), out, err) == (130, b"", b"nanos2t: interrupted\n")


def test_help_and_usage_need_no_torch():
    """The package and the command line import nothing slow before there is something to do."""
    code = (
        "import sys\n"
        "from nanos2t.cli import main as cli\n"
        "lines = '--help', 'transcribe --help', 'eval --help', 'transcribe', 'train --steps', 'x'\n"
        "codes = [cli.main(line.split()) for line in (*lines, '--version')]\n"
        "slow = {'torch', 'numpy', 'soundfile', 'tqdm', 'tokenizers'} & set(sys.modules)\n"
        "right = codes == [0, 0, 0, 2, 2, 2, 0]\n"
        "sys.exit(0 if right and not slow else repr((codes, slow)))\n"
    )
    process = python("-c", code)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()


def test_the_help_costs_little():
    """Processor time, which other programs of the machine do not change much."""
    times = []
    for _ in range(3):
        before = os.times()
        process = python("-m", "nanos2t", "--help")
        process.communicate(timeout=60)
        after = os.times()
        assert process.returncode == 0
        times.append(after.children_user + after.children_system)
        times[-1] -= before.children_user + before.children_system
    assert min(times) < 0.6, times


def test_public_names_are_imported_on_first_use():
    code = (
        "import sys, nanos2t\n"
        "assert 'torch' not in sys.modules and set(nanos2t.__all__) < set(dir(nanos2t))\n"
        "from nanos2t import *\n"
        "assert SpeechEncoderDecoder is nanos2t.SpeechEncoderDecoder and callable(load)\n"
        "assert EncoderConfig.__module__ == 'nanos2t.wav2vec2' and not hasattr(nanos2t, 'x')\n"
    )
    process = python("-c", code)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()


# The handler is the first thing that the program sets: from there on no moment is left out.
INTERRUPTED = """import signal, sys
from nanos2t import __main__ as program
signal.signal(signal.SIGINT, program.leave)
print("begun", flush=True)
sys.exit(program.run_program())
"""


@pytest.mark.parametrize("command", ["transcribe", "report", "train"])
@pytest.mark.parametrize(
    "delay", [0, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0.1, 0.4, 1.5))]
)
def test_interrupted_at_any_moment(model, clips, command, delay):
    """While Python starts, while torch is imported, while the model is loaded."""
    Path("m.jsonl").write_text('{"audio": "a.wav", "text": "w7"}\n')
    more = {
        "transcribe": ["-"],
        "report": ["-", "-o", "page.html"],
        "train": ["--train", "m.jsonl", "--output", "run", "--steps", "100000"],
    }[command]
    process = python("-c", INTERRUPTED, command, *more, "--model", str(model))
    assert process.stdout.readline() == b"begun\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    lines = process.stderr.read().splitlines()
    assert (process.wait(60), out, lines[-1]) == (130, b"", b"nanos2t: interrupted")

    # A run may have begun, and say so.
    if command == "train":
        assert all(line.startswith(b"nanos2t: ") for line in lines)
    else:
        assert len(lines) == 1


needs_alarms = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no alarms on Windows")


@needs_alarms
def test_an_interrupt_that_is_discarded_comes_again(monkeypatch):
    """As in a package that is imported, or a callback of C, with a bare `except`."""
    monkeypatch.setattr(cli, "SECONDS_TO_END", 0.02)
    former_handler = signal.getsignal(signal.SIGALRM)
    discarded = []
    with pytest.raises(KeyboardInterrupt), cli.terminable(cli.Interruption()):
        for _ in range(2):
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except BaseException as error:
                discarded.append(type(error))
        time.sleep(60)
    assert discarded == 2 * [KeyboardInterrupt]
    assert signal.getsignal(signal.SIGALRM) == former_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@needs_alarms
def test_an_import_is_not_interrupted(monkeypatch, tmp_path):
    """It comes when the import is over: torch's C++ code aborts if it is interrupted."""
    module = (
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.1)\nlast = 1"
    )
    (tmp_path / "imported_slowly.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    steps = []
    with pytest.raises(KeyboardInterrupt), cli.terminable(cli.Interruption()):
        import imported_slowly

        steps.append(imported_slowly.last)
        time.sleep(60)
    assert steps == [1]


def test_interrupted_in_a_module_that_runs_the_command_line(monkeypatch, tmp_path):
    """The import of that module, which lasts as long as the command, is not waited for."""

    def run(options):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    parser = SimpleNamespace(
        parse_known_args=lambda arguments: (SimpleNamespace(command="x", run=run), [])
    )
    monkeypatch.setattr(cli, "build_parser", lambda: parser)
    (tmp_path / "runs_main.py").write_text("from nanos2t.cli.main import main\ncode = main()\n")
    monkeypatch.syspath_prepend(tmp_path)
    import runs_main

    assert runs_main.code == 130


@needs_alarms
def test_what_an_interrupt_ends_has_its_time(monkeypatch):
    """`finally` and `with` run to their end, also if they handle errors of their own."""
    monkeypatch.setattr(cli, "SECONDS_TO_END", 0.01)
    steps = []

    @contextmanager
    def slow_end():
        try:
            yield
        finally:
            time.sleep(0.1)
            steps.append("with")

    with pytest.raises(KeyboardInterrupt), cli.terminable(cli.Interruption()), slow_end():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        finally:
            try:
                raise OSError
            except OSError:
                time.sleep(0.1)
            steps.append("finally")
    assert steps == ["finally", "with"]
