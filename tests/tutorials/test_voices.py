# pytest tests/tutorials/test_voices.py
"""Synthetic voices: trimmed, at 8 kHz, and the same again with the same seed (needs espeak-ng)."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import voices


def test_trimmed_keeps_the_word_and_20_ms_around_it():
    tone = np.sin(2 * np.pi * 440 * np.arange(4800) / 16000)
    clip = np.concatenate([np.zeros(8000), tone, np.zeros(6400)])
    cut = voices.trim(clip, 16000)
    assert abs(len(cut) - (2400 + 2 * 160)) <= 160
    assert np.abs(cut).max() == pytest.approx(0.7)


def test_takes_depend_on_seed_and_voice():
    def draw(voice: str, seed: int) -> list[float]:
        return [rng.random() for rng, _, _ in voices.draw_takes(voice, 2, seed)]

    assert draw("a", 0) == draw("a", 0) and len(draw("a", 0)) == 20
    assert draw("a", 0) != draw("b", 0) and draw("a", 0) != draw("a", 1)


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_espeak_says_the_same_again(tmp_path: Path):
    first, again = (
        list(itertools.islice(voices.speak_espeak(0, tmp_path / "x.wav"), 2)) for _ in range(2)
    )
    for (digit, voice, index, samples, rate), other in zip(first, again):
        assert (digit, voice, index, rate) == (*other[:3], other[4])
        assert np.array_equal(samples, other[3]) and np.abs(samples).max() > 0.01
        assert "_" not in voice
