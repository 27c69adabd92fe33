"""Shared by tests of nanos2t/fast: a tiny model, batches, recordings, and a measure of error."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import nanos2t
from helpers.pairs import spread_
from nanos2t.decoder import DecoderConfig
from nanos2t.fast.onednn import has_bfloat16
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import IGNORED, SpeechEncoderDecoder
from nanos2t.transcription.loading import BUNDLED
from nanos2t.wav2vec2 import EncoderConfig

RATE = 8000  # of the bundled model

needs_bfloat16 = pytest.mark.skipif(not has_bfloat16(), reason="not for this CPU")
FAST_DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]


def relative_error(result: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the error as a share of the norm of what is expected."""
    assert result.shape == expected.shape and result.dtype == torch.float32
    return ((result - expected).norm() / expected.norm()).item()


def build_model(
    norm: str = "group", activation: str = "gelu", **encoder_changes
) -> SpeechEncoderDecoder:
    """A tiny pair with spread weights, all sizes different."""
    encoder = EncoderConfig(
        hidden_size=24,
        num_layers=2,
        num_heads=3,
        intermediate_size=40,
        conv_channels=(8, 9, 10),
        conv_kernels=(5, 3, 2),
        conv_strides=(3, 2, 2),
        conv_norm=norm,
        conv_bias=norm == "layer",
        position_kernel=6,
        position_groups=4,
        activation=activation,
        conv_activation=activation,
    )
    encoder = replace(encoder, **encoder_changes)
    decoder = DecoderConfig.bert(
        31,
        hidden_size=20,
        num_layers=2,
        num_heads=2,
        intermediate_size=28,
        max_positions=30,
        activation=activation,
    )
    generation = GenerationConfig(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0)
    return spread_(SpeechEncoderDecoder.from_configs(encoder, decoder, generation)).eval()


def make_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise of three lengths, one of them a single frame, its mask, and labels."""
    mask = torch.arange(301) < torch.tensor([301, 200, 25])[:, None]  # (3, 301)
    labels = torch.randint(3, 31, (3, 7))
    labels[1, 4:] = IGNORED
    return torch.randn(3, 301) * mask, mask.long(), labels


def vary_sample(count: int) -> list[np.ndarray]:
    """The bundled recording at other speeds, with noise, and without its beginning."""
    sample = nanos2t.load().load_audio(BUNDLED.parent / "sample.wav")
    random = np.random.default_rng(0)
    recordings = []
    for _ in range(count):
        # Another speed, by linear interpolation.
        places = np.arange(0, len(sample) - 1, random.uniform(0.9, 1.1))
        x = np.interp(places, np.arange(len(sample)), sample)

        # Up to 40 % less at the beginning.
        x = x[int(random.uniform(0, 0.4) * len(sample)) :]

        # Noise, 20 to 40 dB below the signal.
        level = np.sqrt(np.mean(x**2)) * 10 ** (-random.uniform(20, 40) / 20)
        recordings.append((x + level * random.standard_normal(len(x))).astype(np.float32))
    return recordings
