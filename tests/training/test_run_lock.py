# pytest tests/training/test_run_lock.py
"""Two runs never write into one folder, and a run that is killed keeps no one from it."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.processes import is_running, python
from helpers.training import command_line, distance, folder_contents, read_weights, tiny_run

from nanos2t.cli import console
from nanos2t.cli import main as cli
from nanos2t.training import run_lock
from nanos2t.training.config import TrainConfig
from nanos2t.training.run_lock import LOCK_FILE, lock_run

# Stops before a step, and before its batch is made in a worker.
SLOW_PROGRAM = """
import sys, time
from nanos2t.cli import main as cli
from nanos2t.training import loop

train_step = loop.train_step

def slow_step(module, optimizer, losses_of, config, step, progress):
    loss = train_step(module, optimizer, losses_of, config, step, progress)
    if step == 5:
        print("ready", flush=True)
        time.sleep(600)
    return loss

loop.train_step = slow_step
sys.exit(cli.main(sys.argv[1:]))
"""


def start_run(config: TrainConfig) -> subprocess.Popen:
    """Start a run in another process, and wait until it has made five steps."""
    child = python("-c", SLOW_PROGRAM, *command_line(config))
    assert child.stdout.readline() == b"ready\n", child.stderr.read()
    return child


def children_of(number: int) -> list[int]:
    """The processes that a process has started, from any of its threads."""
    children = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        children += [int(word) for word in path.read_text().split()]
    return children


def descendants_of(number: int) -> list[int]:
    waiting = children_of(number)
    descendants = []
    while waiting:
        child = waiting.pop()
        descendants.append(child)
        waiting += children_of(child)
    return descendants


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_second_run_is_refused_and_a_killed_one_is_resumed_at_once(
    whole_run, tmp_path: Path, capsys
):
    config = tiny_run(tmp_path, average=2, workers=1)
    child = start_run(config)
    before = folder_contents(tmp_path / "run")
    others = [
        ["train", "--resume", config.output],
        command_line(config),
        command_line(replace(config, output=f"{tmp_path}/data/../run", average=1, seed=9)),
    ]
    try:
        (tmp_path / "link").symlink_to("run")
        others.append(["train", "--resume", str(tmp_path / "link"), "--workers", "1"])
        for arguments in others:
            assert cli.main(arguments) == console.FAILED
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1) and err.startswith("nanos2t: ")
            assert f"process {child.pid} on " in err and "expected one run at a time" in err
        assert folder_contents(tmp_path / "run") == before
    finally:
        workers = children_of(child.pid)
        child.kill()
        child.wait()

    # The workers of the run are still there, with all files that it had open.
    assert workers and all(Path(f"/proc/{worker}/status").exists() for worker in workers)
    assert (tmp_path / "run" / LOCK_FILE).exists()
    assert cli.main(["train", "--resume", config.output]) == 0
    for name in ("last", "best", "average"):
        first = read_weights(whole_run[1] / "run", name)
        assert distance(first, read_weights(tmp_path / "run", name)) == 0
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_of_many_processes_one_has_the_lock_at_a_time(tmp_path: Path):
    """Also when the one before is just removing its file."""
    program = (
        "import sys, pathlib, os\nfrom nanos2t.training.run_lock import lock_run\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "count = 0\n"
        "while count < 100:\n"
        "    try:\n"
        "        with lock_run(folder):\n"
        "            os.close(os.open(folder / 'alone', os.O_CREAT | os.O_EXCL))\n"
        "            os.unlink(folder / 'alone')\n"
        "            count += 1\n"
        "    except ValueError as error:\n"
        "        assert 'trains there' in str(error), error\n"
    )
    children = [python("-c", program, str(tmp_path / "run")) for _ in range(3)]
    results = [child.communicate(timeout=600) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], results
    assert os.listdir(tmp_path / "run") == []


def test_a_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(ValueError, match="file: .*, expected a folder to write to")
    with refused, lock_run(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == ""

    # Without locks there is no protection, but the run goes on.
    def fail(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_lock.fcntl, "lockf", fail)
    with lock_run(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK_FILE).exists()
    monkeypatch.setattr(run_lock, "fcntl", None)
    with lock_run(tmp_path / "other"):
        assert os.listdir(tmp_path / "other") == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_processes_of_torchrun_have_one_lock(tmp_path: Path):
    config = tiny_run(tmp_path, workers=1)
    program = tmp_path / "slow.py"
    program.write_text(SLOW_PROGRAM)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    first = python(*launch, str(program), *command_line(config))
    try:
        assert first.stdout.readline().startswith(b"ready")
        second = python(*launch, str(program), "train", "--resume", config.output)
        _, err = second.communicate(timeout=120)
        assert second.returncode == 1 and err.count(b"expected one run at a time") == 1, err
    finally:
        # torchrun starts its processes in sessions of their own.
        numbers = [first.pid, *descendants_of(first.pid)]
        for number in numbers:
            os.kill(number, signal.SIGKILL)
        while any(is_running(number) for number in numbers):
            time.sleep(0.01)
        first.wait()
    assert cli.main(["train", "--resume", config.output]) == 0
