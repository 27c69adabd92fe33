# pytest tests/cli/test_work_queue.py (and with -m slow)
"""nanos2t/cli/work_queue.py: several processes share the inputs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.tiny import save_tiny, sound, write

import nanos2t
from nanos2t.cli.work_queue import WorkQueue


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_process_alone(monkeypatch):
    for name in "WORLD_SIZE", "RANK":
        monkeypatch.delenv(name, raising=False)
    queue = WorkQueue()
    assert (queue.num_processes, queue.rank) == (1, 0)
    assert queue.broadcast([["a", ""], 1]) == [["a", ""], 1]
    taken = []
    message = []

    def texts():
        for index in queue.claim_indices(3):
            taken.append(index)
            yield index, f"{index} \udcff\n"

    for text in queue.merge_texts(texts(), 3):
        message.append(text)
        assert taken == list(range(len(message))), "told before the next is taken"
    assert message == ["0 \udcff\n", "1 \udcff\n", "2 \udcff\n"] and queue.sum(3) == 3


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
    expected.insert(7, "")
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
