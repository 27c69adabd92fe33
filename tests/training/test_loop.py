# pytest tests/training/test_loop.py
"""The loop on toy modules: the same bits after a kill, the log, gradients, the best model."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nanos2t.training import state as run_state
from nanos2t.training.config import TrainConfig
from nanos2t.training.loop import (
    Progress,
    catch_stop_signals,
    create_optimizer,
    train,
    train_step,
)

CONFIG = {
    "steps": 12,
    "warmup_steps": 2,
    "decay_steps": 3,
    "save_every": 4,
    "validate_every": 6,
    "bfloat16": False,
    "schedule": "constant",
}


def toy(steps: int, folder: Path, die_at: int = -1, average: int = 1) -> torch.Tensor:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 1))

    def losses(step: int):
        if step == die_at:
            os._exit(9)
        generator = torch.Generator().manual_seed(step)
        for _ in range(2):
            yield module(torch.randn(4, 5, generator=generator)).square().mean() / 2

    config = TrainConfig(**(CONFIG | {"steps": steps, "average": average}))
    train(module, losses, config, folder, lambda: {"exact": 0.5})
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path):
    whole = toy(12, tmp_path / "whole")
    code = f"import sys; sys.path[:0] = {sys.path!r}; from training import test_loop; "
    code += f"test_loop.toy(12, test_loop.Path({str(tmp_path / 'killed')!r}), die_at=10)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 9
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 8
    assert torch.equal(toy(12, tmp_path / "killed"), whole)


def test_moments_in_another_layout_give_the_same_bits(tmp_path: Path):
    """A fused step goes through memory: what is transposed there would be mixed up."""
    toy(8, tmp_path / "plain")
    shutil.copytree(tmp_path / "plain", tmp_path / "transposed")
    path = tmp_path / "transposed" / "state.pt"
    state = torch.load(path, weights_only=True)
    for name in ("exp_avg", "exp_avg_sq"):
        moments = state["optimizer"]["state"][0]
        moments[name] = moments[name].mT.contiguous().mT
        assert not moments[name].is_contiguous()
    torch.save(state, path)
    assert torch.equal(toy(12, tmp_path / "transposed"), toy(12, tmp_path / "plain"))


def test_a_weight_that_is_not_contiguous_is_refused():
    module = nn.Linear(5, 6)
    module.weight.data = torch.zeros(5, 6).mT
    with pytest.raises(ValueError, match=r"^weight has strides \(1, 6\), expected a contiguous"):
        create_optimizer(module, TrainConfig(**CONFIG))


def test_the_log_has_a_line_of_metrics(tmp_path: Path):
    toy(12, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 10, 12] and lines[0]["exact"] == 0.5
    assert all(line["loss"] > 0 for line in lines)


def test_a_gradient_that_is_not_finite_stops_with_the_last_state_kept(tmp_path: Path):
    module = nn.Linear(2, 3)

    def losses(step: int):
        yield module(torch.ones(1, 2)).sum() * (torch.nan if step == 5 else 1.0)

    with pytest.raises(ValueError, match="step 6: loss nan"):
        train(module, losses, TrainConfig(**CONFIG), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and state["module"]["weight"].isfinite().all()


@pytest.mark.parametrize("rate", [1e36, math.nan])
def test_a_learning_rate_that_ruins_the_weights_stops_at_once(tmp_path: Path, rate: float):
    module = nn.Linear(2, 3)
    config = TrainConfig(**(CONFIG | {"learning_rate": rate, "save_every": 1}))
    with pytest.raises(ValueError, match="step 1: .*kept, of step 0, .*state.pt; --learning-rate"):
        train(module, lambda step: [module(torch.ones(1, 2)).sum()], config, tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 0 and state["module"]["weight"].isfinite().all()


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path: Path):
    module = torch.nn.Linear(1, 1)
    saved = []
    config = TrainConfig(steps=4, validate_every=1, save_every=4)
    values = iter([math.nan, 2.0, math.inf, 1.0])

    def losses_of(step: int):
        yield module(torch.ones(1)).sum()

    def save_model(name: str, weights: dict) -> None:
        saved.append(name)

    train(module, losses_of, config, tmp_path, lambda: {"dev_loss": next(values)}, save_model)
    assert saved == ["last", "best", "best", "last"]


def test_gradients_are_cut_or_left_alone():
    module = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    for limit, wanted in ((1.0, 1.0), (0.0, 12.0)):
        config = TrainConfig(max_grad_norm=limit)
        train_step(
            module, optimizer, lambda step: [module(torch.ones(3)).sum() * 6], config, 1, Progress()
        )
        norm = torch.cat([parameter.grad.flatten() for parameter in module.parameters()]).norm()
        assert norm.item() == pytest.approx(wanted, rel=1e-4)


def test_a_run_that_dies_between_two_states_still_has_its_average(tmp_path: Path, monkeypatch):
    """Once all steps are done, the last state for the average is never made again."""
    save_state = run_state.save_state
    saved = []

    def save(state: dict, path: Path) -> None:
        # The last save writes two files: die before the second.
        if state["step"] == 12 and saved[-1] == 12:
            raise ValueError("killed")
        saved.append(state["step"])
        save_state(state, path)

    config = TrainConfig(**(CONFIG | {"average": 2}))
    module = nn.Linear(2, 3)
    arguments = (module, lambda step: [module(torch.ones(1, 2)).sum()], config, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(run_state, "save_state", save)
        with pytest.raises(ValueError, match="killed"):
            train(*arguments)
    train(*arguments)
    weights = {name: weight.clone() for name, weight in module.state_dict().items()}
    average = run_state.average_states(tmp_path, config)
    assert average.keys() == weights.keys() and not torch.equal(average["bias"], weights["bias"])


def test_an_average_whose_states_were_not_kept_is_refused_before_the_steps(tmp_path: Path):
    toy(8, tmp_path)
    with pytest.raises(ValueError, match="state-8.pt: .* expected --average 2 at most"):
        toy(16, tmp_path, average=3)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 8
    toy(16, tmp_path, average=2)
    with pytest.raises(ValueError, match="expected --average 2 at most"):
        toy(16, tmp_path, average=3)


def test_signals_that_are_ignored_stay_so(tmp_path: Path):
    """In a script, Ctrl-C is for what runs in the foreground."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with catch_stop_signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)
