"""How clips are changed in training: speed and noise of the waveform, masked spans of frames.

L samples, B batch, T frames.
"""

import numpy as np
import torch
from torch import Tensor

from nanos2t.training.config import TrainConfig
from nanos2t.wav2vec2 import EncoderTraining

FFT_BLOCK = 2048  # an FFT is quick on multiples of it


def augment(waveform: np.ndarray, config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """Return a waveform (L,) at another speed and with noise, as the config asks for.

    Loudness is left alone: models that normalise their input do not notice it.
    """
    if config.speed:
        waveform = change_speed(waveform, config.speed, rng)
    if rng.random() < config.noise:
        waveform = add_noise(waveform, rng)
    return waveform


def change_speed(waveform: np.ndarray, max_change: float, rng: np.random.Generator) -> np.ndarray:
    """Play a waveform (L,) exp(u) times as fast, u uniform in -max_change .. max_change.

    The pitch changes, too.
    """
    import soxr

    factor = np.exp(rng.uniform(-max_change, max_change))
    return soxr.resample(waveform, factor, 1.0).astype(np.float32)


def add_noise(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to a waveform (L,), 3 to 35 dB below it.

    The amplitude of the noise falls with the frequency f as 1 / f^a, a uniform in 0 .. 1, from
    white (0) to brown noise (1).
    """
    num_blocks = -(-len(waveform) // FFT_BLOCK)  # rounded up
    size = num_blocks * FFT_BLOCK
    frequencies = np.arange(1, size // 2 + 2)

    white = np.fft.rfft(rng.standard_normal(size))
    coloured = white / frequencies ** rng.uniform(0, 1)
    noise = np.fft.irfft(coloured)[: len(waveform)]  # (L,)

    decibels = rng.uniform(3, 35)
    level = waveform.std() * 10 ** (-decibels / 20)
    return waveform + (noise / (noise.std() + 1e-9) * level).astype(np.float32)


def spec_augment(
    frame_lengths: Tensor, num_frames: int, config: EncoderTraining, rng: np.random.Generator
) -> Tensor | None:
    """Draw the frames to mask (SpecAugment, Park et al. 2019).

    Each item of `frame_lengths` (B,) gets int(p * length / span + u) spans, u uniform in [0, 1), at
    least `mask_time_min_masks` and no more than fit, at distinct starts, as in transformers'
    _compute_mask_indices. Padding is never masked. Returns mask_time_indices (B, T) bool, where T
    is `num_frames`, or None if the config masks nothing.
    """
    if not config.mask_time_prob:
        return None
    span = config.mask_time_length
    mask = torch.zeros(len(frame_lengths), num_frames, dtype=torch.bool)  # (B, T)
    rounding = rng.random()  # one for the whole batch, as in transformers
    for row, length in zip(mask, frame_lengths.tolist()):
        num_spans = int(config.mask_time_prob * length / span + rounding)
        num_spans = min(max(num_spans, config.mask_time_min_masks), length // span)
        if num_spans == 0:
            continue

        # Spans may overlap.
        for start in rng.choice(length - span + 1, num_spans, replace=False):
            row[start : start + span] = True
    return mask
