# pytest tests/training/test_resuming.py
"""Runs that are killed, stopped or out of disk space, and what they are resumed from."""

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import command_line, distance, folder_contents, read_weights, tiny_run

import nanos2t
from nanos2t.cli import console
from nanos2t.cli import main as cli
from nanos2t.training import state as run_state
from nanos2t.training.config import TrainConfig
from nanos2t.training.run import run_training

PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from nanos2t.cli import main as cli
from nanos2t.training import loop

train_step = loop.train_step

def train_step_with_signal(module, optimizer, losses_of, config, step, progress):
    if step == {step}:
        os.kill(os.getpid(), {number})
    return train_step(module, optimizer, losses_of, config, step, progress)

loop.train_step = train_step_with_signal
sys.exit(cli.main(sys.argv[1:]))
"""


def train_with_signal(config: TrainConfig, step: int, number: int) -> subprocess.CompletedProcess:
    """Train in another process, which sends itself a signal before it makes a step."""
    program = PROGRAM.format(step=step, number=int(number))
    command = [sys.executable, "-c", program, *command_line(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_same_models(first: Path, second: Path, names: tuple[str, ...] = ("last",)) -> None:
    """The models of two runs have the same bits."""
    for name in names:
        assert distance(read_weights(first, name), read_weights(second, name)) == 0


def read_losses(run: Path) -> list[tuple[int, float]]:
    """The steps and losses of a log."""
    rows = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_run_that_is_killed_and_resumed_ends_in_the_same_bits(whole_run, step, tmp_path: Path):
    config = tiny_run(tmp_path, average=2, workers=step % 2)
    done = train_with_signal(config, step, signal.SIGKILL)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with open(tmp_path / "run" / "log.jsonl", "a") as log:
        log.write('{"step": 11, "loss": 3}\n{"step": 12, "lo')
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    names = ("last", "best", "average")
    assert_same_models(whole_run[1] / "run", tmp_path / "run", names)
    assert read_losses(tmp_path / "run") == read_losses(whole_run[1] / "run")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_that_is_asked_to_stop_saves_its_step(whole_run, name, tmp_path: Path):
    config = tiny_run(tmp_path, average=2, workers=1)
    done = train_with_signal(config, 6, getattr(signal, name))
    assert done.returncode == console.INTERRUPTED, done.stderr
    assert f"step 7 is saved; continue with --resume {config.output}" in done.stderr
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 7
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    names = ("last", "best", "average")
    assert_same_models(whole_run[1] / "run", tmp_path / "run", names)


TERMINAL = """
import fcntl, signal, sys, termios, time
from pathlib import Path
from nanos2t.cli import main as cli
from nanos2t.training import loop

fcntl.ioctl(2, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
train_step = loop.train_step

def train_step_and_wait(module, optimizer, losses_of, config, step, progress):
    loss = train_step(module, optimizer, losses_of, config, step, progress)
    if step == 6:
        Path("waits").touch()
        time.sleep(1.0)
        signal.raise_signal(signal.SIGHUP)
    return loss

loop.train_step = train_step_and_wait
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_run_whose_terminal_is_closed_saves_its_step(whole_run, tmp_path: Path):
    """The signal comes to its workers, too, and twice; then nothing can be written to stderr."""
    pty = pytest.importorskip("pty", reason="needs terminals as Unix has them")
    config = tiny_run(tmp_path, average=2, workers=1)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", TERMINAL, *command_line(config)]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=tmp_path
    )
    os.close(theirs)
    while not (tmp_path / "waits").exists():
        assert process.poll() is None
        if select.select([ours], [], [], 0.1)[0]:
            os.read(ours, 100_000)
    os.close(ours)

    assert process.wait() == console.INTERRUPTED
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 7
    assert cli.main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert_same_models(whole_run[1] / "run", tmp_path / "run", ("last", "best", "average"))


def test_a_full_disk_leaves_the_last_checkpoint(whole_run, tmp_path: Path, monkeypatch):
    config = tiny_run(tmp_path, average=2)
    real_save = torch.save

    def save(state, file):
        if state["step"] == 8:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real_save(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match="state-8.pt: cannot be written .*No space left"):
        run_training(config)
    monkeypatch.undo()
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 4
    assert not list((tmp_path / "run").glob("*.part")) and nanos2t.load(tmp_path / "run" / "last")
    assert cli.main(["train", "--resume", config.output]) == 0
    assert_same_models(whole_run[1] / "run", tmp_path / "run")


def test_a_disk_that_is_full_at_the_first_save_leaves_a_folder_to_begin_in(
    tmp_path: Path, monkeypatch
):
    config = tiny_run(tmp_path)

    def save(state, file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(ValueError, match="state.pt: cannot be written .No space left"):
        run_training(config)
    monkeypatch.undo()
    (tmp_path / "run" / "vocab.txt").write_text("of another decoder")
    run_training(config)
    assert (tmp_path / "run" / "state.pt").exists() and not (
        tmp_path / "run" / "vocab.txt"
    ).exists()
    (tmp_path / "run" / "state.pt").unlink()  # a model that is trained is never written over
    with pytest.raises(ValueError, match="there is a run"):
        run_training(config)


def test_a_run_that_died_before_its_first_state_can_begin_again(
    whole_run, tmp_path: Path, monkeypatch
):
    config = tiny_run(tmp_path, average=2)
    real_save = run_state.save_state

    def die(state, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_state, "save_state", die)
    with pytest.raises(KeyboardInterrupt):
        run_training(config)
    with pytest.raises(
        ValueError, match="run: no state.pt to go on from, expected to begin without"
    ):
        run_training(config, resumed=True)
    monkeypatch.setattr(run_state, "save_state", real_save)
    run_training(config)
    assert_same_models(whole_run[1] / "run", tmp_path / "run")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"/data/1") + 100] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("state.pt", Path.unlink, "no state.pt"),
        ("state.pt", lambda path: path.write_bytes(b""), "state.pt: .*expected the state of a run"),
        (
            "state.pt",
            lambda path: path.write_bytes(b"x" * 999),
            "state.pt: .*expected the state of a run",
        ),
        (
            "state.pt",
            lambda path: path.write_bytes(path.read_bytes()[:-999]),
            "expected the state of a run",
        ),
        ("state.pt", flip, "state.pt: the checksum of .*data/1 is wrong"),
        ("state.pt", lambda path: torch.save({"a": 1}, path), "state.pt: something else was found"),
        ("state.pt", lambda path: torch.save([1], path), "state.pt: something else was found"),
        (
            "log.jsonl",
            lambda path: path.write_text('{"loss": 1}\n'),
            "log.jsonl: KeyError.*with its step",
        ),
        (
            "log.jsonl",
            lambda path: path.write_text("{}}\n"),
            "log.jsonl: JSONDecodeError.*with its step",
        ),
        ("last/config.json", Path.unlink, "last/config.json"),
    ],
)
def test_what_a_run_goes_on_from_is_checked(whole_run, tmp_path: Path, name, spoil, reason):
    shutil.copytree(whole_run[1] / "run", tmp_path / "run")
    spoil(tmp_path / "run" / name)
    with pytest.raises(ValueError, match=reason):
        run_training(replace(whole_run[0], output=str(tmp_path / "run"), steps=14), resumed=True)


def change(*keys, to=None):
    """Return a function that changes, or with `to` None deletes, a field of a state file."""

    def spoil(path: Path) -> None:
        state = torch.load(path, weights_only=True)
        container = state
        for key in keys[:-1]:
            container = container[key if key != "first" else next(iter(container))]
        last = keys[-1] if keys[-1] != "first" else next(iter(container))
        if to is None:
            del container[last]
        else:
            container[last] = to
        torch.save(state, path)

    return spoil


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        *(change(key) for key in ("module", "optimizer", "step", "best")),
        *(change("step", to=value) for value in (-1, 1.5, "5", True, [4], torch.ones(1))),
        *(change("best", to=value) for value in (3, [1], {"exact": "good"}, {"exact": [1]})),
        *(change("module", to=value) for value in (3, {}, [torch.ones(2)], "x")),
        *(change("module", "first", to=value) for value in (3, "x", torch.ones(2, 2, 2))),
        change("module", "first", to=torch.full((15,), torch.nan)),
        change("module", "first"),
        *(change("optimizer", to=value) for value in (3, {}, [], {"param_groups": []})),
        change("optimizer", "state"),
        change("optimizer", "param_groups"),
        *(change("optimizer", "param_groups", to=value) for value in (3, [3], [{}], {})),
        change("optimizer", "param_groups", 0, "params", to=[0]),
        *(change("optimizer", "state", to=value) for value in (3, [1, 2], {0: 5}, {"a": {}})),
        change("optimizer", "state", 0, "exp_avg"),
        *(change("optimizer", "state", 0, "exp_avg", to=value) for value in (3, torch.ones(1))),
        change("optimizer", "state", 0, "exp_avg_sq", to=torch.ones(2, 2, 2, 2)),
        *(change("optimizer", "state", 0, "step", to=value) for value in ("x", torch.ones(3))),
    ],
)
def test_fields_of_a_state_that_are_missing_or_of_another_kind(whole_run, tmp_path, capsys, spoil):
    """One line that names the file, and what is there is kept."""
    shutil.copytree(whole_run[1] / "run", tmp_path / "run")
    path = tmp_path / "run" / "state.pt"
    spoil(path)
    before = folder_contents(tmp_path / "run")
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--steps", "14"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if f"nanos2t: {path}: " in line] == lines[-1:], lines
    after = folder_contents(tmp_path / "run")
    assert after.pop("skipped.txt") is not None and before.pop("skipped.txt") is not None
    assert after == before


def test_a_run_does_not_go_on_to_fewer_steps_or_with_other_weights(whole_run, tmp_path: Path):
    shutil.copytree(whole_run[1] / "run", tmp_path / "run")
    config = replace(whole_run[0], output=str(tmp_path / "run"), steps=14)
    before = folder_contents(tmp_path / "run")
    with pytest.raises(ValueError, match="state.pt: 12 steps are done, expected --steps to be as"):
        run_training(replace(config, steps=8), resumed=True)
    with pytest.raises(
        ValueError, match="state.pt: not of this model .*ctc.weight.*the run began with"
    ):
        run_training(replace(config, ctc=0.5), resumed=True)
    assert folder_contents(tmp_path / "run") == before


def test_a_resumed_run_has_the_weight_decay_and_the_metric_that_are_asked_for(
    whole_run, tmp_path: Path
):
    """With another metric, or on other data, the best model is chosen anew."""
    config = whole_run[0]
    other_dev = str(Path(config.dev).with_name("other.jsonl"))
    shutil.copy(config.dev, other_dev)
    changes = {
        "same": {},
        "metric": {"weight_decay": 50.0, "best": "dev_loss"},
        "data": {"dev": other_dev},
    }
    best = {}
    for name, change in changes.items():
        shutil.copytree(whole_run[1] / "run", tmp_path / name)
        more = {"output": str(tmp_path / name), "steps": 13, "average": 1, **change}
        run_training(replace(config, **more), resumed=True)
        state = torch.load(tmp_path / name / "state.pt", weights_only=True)
        [best[name]] = state["best"]
        if name == "metric":
            decays = [group["weight_decay"] for group in state["optimizer"]["param_groups"]]
    assert (
        best["same"] == f"exact on {config.dev}" and best["metric"] == f"dev_loss on {config.dev}"
    )
    assert best["data"] == f"exact on {other_dev}"
    assert decays == [50.0, 0.0]
    assert distance(read_weights(tmp_path / "same"), read_weights(tmp_path / "metric")) > 1e-5


def test_a_run_can_be_made_longer(tmp_path: Path):
    run_training(tiny_run(tmp_path, steps=4))
    assert cli.main(["train", "--resume", str(tmp_path / "run"), "--steps", "6"]) == 0
    assert json.loads((tmp_path / "run" / "train.json").read_text())["steps"] == 6
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 6


@pytest.mark.parametrize("change", ["a text", "a line less", "other recordings", "spaces", "none"])
def test_a_run_that_is_resumed_warns_of_a_manifest_that_has_changed(
    change: str, tmp_path: Path, caplog
):
    config = tiny_run(tmp_path)
    run_training(replace(config, steps=4))
    path = Path(config.train)
    lines = path.read_text().splitlines(keepends=True)
    changed = {
        "a text": [lines[0].replace('"text": "', '"text": "a '), *lines[1:]],
        "a line less": lines[:-1],
        "other recordings": [lines[0].replace("0.wav", "1.wav"), *lines[1:]],
        "spaces": ["\n", *(line.replace(": ", ":  ") for line in lines)],
        "none": lines,
    }
    path.write_text("".join(changed[change]))

    warning = f"{path}: it has changed since the run began"
    run_training(replace(config, steps=5), resumed=True)
    assert caplog.text.count(warning) == (change not in ("spaces", "none"))

    # It is told once. Another manifest that is asked for is no surprise.
    caplog.clear()
    run_training(replace(config, steps=6), resumed=True)
    shutil.copy(path, path.with_name("b.jsonl"))
    run_training(replace(config, train=str(path.with_name("b.jsonl")), steps=7), resumed=True)
    assert "has changed" not in caplog.text
