# pytest tests/test_train.py
"""The training loop: laws of SpecAugment and the schedule, and that a killed run ends in the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nanos2t.apps import train
from nanos2t.apps.train import TrainConfig, average
from nanos2t.wav2vec2 import Encoder, EncoderConfig, EncoderTraining

RNG = np.random.default_rng


def spans(row: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in row.tolist())
    return [len(run) for run in text.split()]


def test_spec_augment_masks_whole_spans_and_never_padding():
    config = EncoderTraining(mask_time_prob=0.3, mask_time_length=4, mask_time_min_masks=1)
    frames = torch.tensor([60, 23, 4, 3, 1])
    for seed in range(50):
        masked = train.spec_augment(frames, 60, config, RNG(seed))
        assert masked.shape == (5, 60)
        for row, count in zip(masked, frames.tolist()):
            assert not row[count:].any()
            assert all(length >= 4 for length in spans(row))
        assert masked[2].sum() == 4 and not masked[3].any() and not masked[4].any()


def test_spec_augment_has_transformers_mean():
    compute = pytest.importorskip("transformers.models.wav2vec2.modeling_wav2vec2")._compute_mask_indices
    config = EncoderTraining(mask_time_prob=0.2, mask_time_length=5, mask_time_min_masks=2)
    frames, attention = torch.tensor([70, 41]), torch.arange(70) < torch.tensor([[70], [41]])
    ours = torch.stack([train.spec_augment(frames, 70, config, RNG(seed)) for seed in range(600)]).float()
    np.random.seed(0)
    theirs = np.stack([compute((2, 70), 0.2, 5, attention, min_masks=2) for _ in range(600)])
    assert np.allclose(ours.mean((0, 2)), theirs.mean((0, 2)), atol=0.01)
    assert np.allclose(ours.std(0).mean(1), theirs.std(0).mean(1), atol=0.02)


def test_spec_augment_can_be_off():
    config = EncoderTraining(mask_time_prob=0.0)
    assert train.spec_augment(torch.tensor([9]), 9, config, RNG(0)) is None


def test_count_frames_is_what_the_encoder_makes():
    config = EncoderConfig(12, 1, 3, 7, conv_channels=(4, 5), conv_kernels=(7, 3), conv_strides=(5, 2),
                           position_kernel=4, position_groups=2)  # fmt: skip
    encoder = Encoder(config)
    samples = torch.tensor([200, 17, 3])
    assert train.count_frames(encoder, samples).tolist() == encoder(torch.randn(3, 200), samples)[1].tolist()


def test_learning_rate_is_a_trapezoid():
    config = TrainConfig(steps=100, learning_rate=2.0, warmup_steps=10, decay_steps=20)
    rates = [train.learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[50] == rates[80] == 2.0
    assert rates[90] == pytest.approx(1.0) and rates[99] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[80:] == sorted(rates[80:], reverse=True)


def test_only_matrices_decay():
    module = nn.ModuleDict({"linear": nn.Linear(3, 4), "norm": nn.LayerNorm(4), "frozen": nn.Linear(2, 2)})
    module["frozen"].requires_grad_(False)
    module.gain = nn.Parameter(torch.ones(1, 1, 5))
    decay, rest = train.decay_groups(module, 0.1)
    assert decay["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0
    assert [tuple(parameter.shape) for parameter in decay["params"]] == [(4, 3)]
    assert sorted(tuple(parameter.shape) for parameter in rest["params"]) == [(1, 1, 5), (4,), (4,), (4,)]


CONFIG = {
    "steps": 12,
    "warmup_steps": 2,
    "decay_steps": 3,
    "save_every": 4,
    "validate_every": 6,
    "bfloat16": False,
}


def toy(steps: int, folder: Path, die_at: int = -1) -> torch.Tensor:
    torch.manual_seed(3)
    module = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 1))

    def losses(step: int):
        if step == die_at:
            os._exit(9)
        generator = torch.Generator().manual_seed(step)
        for _ in range(2):
            yield module(torch.randn(4, 5, generator=generator)).square().mean() / 2

    train.fit(module, losses, TrainConfig(**(CONFIG | {"steps": steps})), folder, lambda: {"exact": 0.5})
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_a_killed_run_ends_in_the_same_bits(tmp_path: Path):
    whole = toy(12, tmp_path / "whole")
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_train; "
    code += f"test_train.toy(12, test_train.Path({str(tmp_path / 'killed')!r}), die_at=10)"
    assert subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 9
    assert torch.load(tmp_path / "killed" / "state.pt", weights_only=True)["step"] == 8
    assert torch.equal(toy(12, tmp_path / "killed"), whole)


def test_the_log_has_a_line_of_metrics(tmp_path: Path):
    toy(12, tmp_path)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 10 and json.loads(line)["loss"] > 0


def test_a_gradient_that_is_not_finite_stops_with_the_last_state_kept(tmp_path: Path):
    module = nn.Linear(2, 1)

    def losses(step: int):
        yield module(torch.ones(1, 2)).sum() * (torch.nan if step == 5 else 1.0)

    with pytest.raises(ValueError, match="step 5: loss nan"):
        train.fit(module, losses, TrainConfig(**CONFIG), tmp_path)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 4 and state["module"]["weight"].isfinite().all()


def test_average_is_of_the_last_states(tmp_path: Path):
    config = TrainConfig(steps=500, save_every=100, average=3)
    for step in (100, 200, 300, 400, 500, 600):
        torch.save({"module": {"weight": torch.tensor([float(step)])}}, tmp_path / f"state-{step}.pt")
    assert average(tmp_path, config) == {"weight": torch.tensor([400.0])}


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path):
    train.save_atomically({"step": 1}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="pickle"):
        train.save_atomically({"step": lambda: 2}, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == {"step": 1}
