# pytest tests/training/test_augmentation.py
"""Speed and noise of waveforms, and the frames that SpecAugment masks."""

import numpy as np
import pytest
import torch

from nanos2t.training.augmentation import augment, spec_augment
from nanos2t.training.config import TrainConfig
from nanos2t.wav2vec2 import EncoderTraining

RNG = np.random.default_rng


def spans(row: torch.Tensor) -> list[int]:
    """Lengths of the runs of True."""
    text = "".join("x" if value else " " for value in row.tolist())
    return [len(run) for run in text.split()]


def test_spec_augment_masks_whole_spans_and_never_padding():
    config = EncoderTraining(mask_time_prob=0.3, mask_time_length=4, mask_time_min_masks=1)
    frames = torch.tensor([60, 23, 4, 3, 1])
    for seed in range(50):
        masked = spec_augment(frames, 60, config, RNG(seed))
        assert masked.shape == (5, 60)
        for row, count in zip(masked, frames.tolist()):
            assert not row[count:].any()
            assert all(length >= 4 for length in spans(row))
        assert masked[2].sum() == 4 and not masked[3].any() and not masked[4].any()


def test_spec_augment_has_transformers_mean():
    compute = pytest.importorskip(
        "transformers.models.wav2vec2.modeling_wav2vec2"
    )._compute_mask_indices
    config = EncoderTraining(mask_time_prob=0.2, mask_time_length=5, mask_time_min_masks=2)
    frames = torch.tensor([70, 41])
    attention = torch.arange(70) < frames[:, None]
    ours = torch.stack([spec_augment(frames, 70, config, RNG(seed)) for seed in range(600)]).float()
    np.random.seed(0)
    theirs = np.stack([compute((2, 70), 0.2, 5, attention, min_masks=2) for _ in range(600)])
    assert np.allclose(ours.mean((0, 2)), theirs.mean((0, 2)), atol=0.01)
    assert np.allclose(ours.std(0).mean(1), theirs.std(0).mean(1), atol=0.02)


def test_spec_augment_can_be_off():
    config = EncoderTraining(mask_time_prob=0.0)
    assert spec_augment(torch.tensor([9]), 9, config, RNG(0)) is None


def test_augment_does_what_it_says():
    tone = np.sin(2 * np.pi * 0.05 * np.arange(4096)).astype(np.float32)
    assert augment(tone, TrainConfig(), np.random.default_rng(0)) is tone
    factors = []
    levels = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        fast = augment(tone, TrainConfig(speed=0.2), rng)
        factors.append(len(tone) / len(fast))
        peak = np.abs(np.fft.rfft(fast * np.hanning(len(fast)))).argmax() / len(fast)
        assert peak == pytest.approx(0.05 * factors[-1], abs=3e-4) and fast.dtype == np.float32
        noise = augment(tone, TrainConfig(noise=0.5), rng) - tone
        if noise.any():
            levels.append(20 * np.log10(tone.std() / noise.std()))
    assert 0.8 < min(factors) < 0.85 and 1.18 < max(factors) < 1.23
    assert 70 < len(levels) < 130 and 2.9 < min(levels) < 6 and 32 < max(levels) < 35.1
