# pytest tests/test_batch.py
"""nanos2t/cli/inputs.py: which inputs are meant, and several processes that share them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny import SOUNDS, save_tiny, sound, write

import nanos2t
from nanos2t.cli import inputs as batch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def test_folders_and_patterns():
    touch(
        "in/b.wav",
        "in/deep/a.FLAC",
        "in/notes.txt",
        "x1.wav",
        "x2.wav",
        "x3.mp3",
        "[x].wav",
        "none/a.txt",
    )
    files, errors = batch.find_files(
        ["x2.wav", "in", "x*.wav", "in/**/*.FLAC", "[x].wav", "gone.wav", "-"]
    )
    inside = ["in/b.wav", "in/deep/a.FLAC"]
    assert files == ["x2.wav", *inside, "x1.wav", "x2.wav", inside[1], "[x].wav", "gone.wav", "-"]
    assert errors == []
    files, errors = batch.find_files(["none", "y*", "x1.wav"])
    assert files == ["x1.wav"] and [str(error).partition(": ")[0] for error in errors] == [
        "none",
        "y*",
    ]


def test_lists():
    Path("list").write_bytes("a b.wav\n\n ü.wav\nno end".encode() + b"\xff")
    assert batch.read_list("list") == ["a b.wav", " ü.wav", os.fsdecode(b"no end\xff")]
    with pytest.raises(ValueError, match="--files-from gone: No such file"):
        batch.read_list("gone")


def test_seconds():
    write(Path("a.wav"), SOUNDS[1])
    write(Path("b.wav"), np.zeros(16000))
    Path("c.wav").write_text("no audio")
    assert (
        batch.count_seconds([("a.wav", ""), ("b.wav", ""), ("c.wav", ""), ("gone", ""), ("-", "")])
        == 3
    )


def test_one_process_alone(monkeypatch):
    for name in "WORLD_SIZE", "RANK":
        monkeypatch.delenv(name, raising=False)
    team = batch.WorkQueue()
    assert (team.size, team.rank, team.agree([["a", ""], 1])) == (1, 0, [["a", ""], 1])
    taken, told = [], []

    def texts():
        for index in team.turns(3):
            taken.append(index)
            yield index, f"{index} \udcff\n"

    for text in team.merge(texts(), 3):
        told.append(text)
        assert taken == list(range(len(told))), "told before the next is taken"
    assert told == ["0 \udcff\n", "1 \udcff\n", "2 \udcff\n"] and team.sum(3) == 3


def torchrun(*arguments: object, processes: int = 2) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "nanos2t",
        "transcribe",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, *map(str, arguments)], env=environment, **pipes)


def test_processes_share_the_files():
    """The text of all in order, once; each failure in one line; 1 from all, when all is done."""
    model = save_tiny(Path("model"))
    names = [write(Path(f"{i:02}.wav"), sound(0.2 + i % 5 / 5, i)).name for i in range(12)]
    stt = nanos2t.load(model)
    expected = [str(stt.transcribe(name)) for name in names]
    Path("list").write_text("\n".join([*names[:7], "gone.wav", *names[7:]]))
    process = torchrun(
        "--files-from", "list", "--model", model, "--output", "out", "--batch-size", 2
    )
    out, err = process.communicate(timeout=500)
    assert out.splitlines() == expected and process.returncode == 1
    assert err.count("nanos2t: gone.wav: ") == 1 and "nanos2t/" not in err, "a traceback of ours"
    assert sorted(os.listdir("out")) == [name.replace("wav", "txt") for name in names]


@pytest.mark.slow
def test_a_process_that_dies_leaves_the_rest():
    """All that was finished is on disk and whole, and the same command does the rest."""
    model = save_tiny(Path("model"))
    names = [write(Path(f"{i:03}.wav"), sound(3.0, i)).name for i in range(300)]
    arguments = *names, "--model", model, "--output", "out", "--batch-size", 1, "--skip-existing"
    process = torchrun(*arguments)
    while len(list(Path("out").glob("*.txt"))) < 5:
        time.sleep(0.05)
        assert process.poll() is None
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victims = [pid for pid in workers if b"nanos2t" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(victims[-1]), signal.SIGKILL)
    process.communicate(timeout=300)
    done = {path.name: path.read_text() for path in Path("out").glob("*.txt")}
    assert process.returncode != 0 and 5 <= len(done) < 300
    process = torchrun(*arguments)
    out, _ = process.communicate(timeout=500)
    assert process.returncode == 0 and len(out.splitlines()) == 300 - len(done)
    stt = nanos2t.load(model)
    for name, result in zip(names, stt.transcribe_many(names)):
        assert Path("out", name).with_suffix(".txt").read_text() == f"{result}\n"
