# pytest tests/training/test_state.py
"""State files that are whole, or what was there before; test_resuming.py has whole runs."""

import resource
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nanos2t.training import state as train_state
from nanos2t.training.config import TrainConfig


def test_average_is_of_the_last_states(tmp_path: Path):
    config = TrainConfig(steps=500, save_every=100, average=3)
    more = {"optimizer": 0, "step": 0, "best": {}}
    for step in (100, 200, 300, 400, 500, 540, 600):
        weight = {"weight": torch.tensor([float(step)])}
        torch.save(more | {"module": weight}, tmp_path / f"state-{step}.pt")
    assert train_state.average_states(tmp_path, config) == {"weight": torch.tensor([400.0])}
    assert train_state.average_states(tmp_path, replace(config, steps=540)) == {
        "weight": torch.tensor([480.0])
    }
    with pytest.raises(ValueError, match="state-700.pt: No such file"):
        train_state.average_states(tmp_path, replace(config, steps=700))
    for steps, every, wanted in ((10, 4, [10, 8, 4]), (12, 4, [12, 8, 4]), (10, 100, [10])):
        assert (
            train_state.steps_to_average(TrainConfig(steps=steps, save_every=every, average=3))
            == wanted
        )
    assert train_state.steps_to_average(TrainConfig(steps=10**12, save_every=1)) == [10**12]


def test_a_full_disk_is_named(tmp_path: Path):
    path = tmp_path / "state.pt"
    path.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (10**5, limits[1])
    )  # torch raises an error of its own then
    try:
        with pytest.raises(ValueError, match="state.pt: cannot be written .File too large"):
            train_state.save_state({"weight": torch.zeros(10**6)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path):
    train_state.save_state({"step": 1}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="pickle"):
        train_state.save_state({"step": lambda: 2}, tmp_path / "state.pt")
    (tmp_path / "other").mkdir()
    with pytest.raises(ValueError, match="other: cannot be written .*: what was there is kept"):
        train_state.save_state({"step": 2}, tmp_path / "other")
    assert not list(tmp_path.glob("*.part"))
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"step": 1}
