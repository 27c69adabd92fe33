"""Sounds, their files in all formats, and loading that must fail or be silent."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nanos2t import audio

RATE = 16_000  # what a model wants

LOSSLESS = [  # format, subtype, rate, channels, error of one sample
    ("WAV", "PCM_U8", 8_000, 1, 2**-7),
    ("WAV", "PCM_16", 16_000, 1, 2**-15),
    ("WAV", "PCM_16", 22_050, 2, 2**-15),
    ("WAV", "PCM_24", 44_100, 5, 2**-21),
    ("WAV", "PCM_32", 48_000, 2, 2**-21),
    ("WAV", "FLOAT", 11_025, 1, 2**-21),
    ("WAV", "DOUBLE", 96_000, 3, 2**-21),
    ("WAVEX", "PCM_16", 32_000, 2, 2**-15),
    ("FLAC", "PCM_16", 44_100, 2, 2**-15),
    ("FLAC", "PCM_24", 16_000, 1, 2**-21),
    ("AIFF", "PCM_16", 24_000, 1, 2**-15),
    ("AU", "PCM_16", 8_000, 2, 2**-15),
    ("CAF", "PCM_16", 48_000, 1, 2**-15),
]

LOSSY = [
    ("OGG", "VORBIS", 44_100, 2),
    ("OGG", "OPUS", 48_000, 1),
    ("MP3", "MPEG_LAYER_III", 44_100, 2),
    ("MP3", "MPEG_LAYER_III", 16_000, 1),
]


def sine(
    rate: int, seconds: float = 1.0, hertz: float = 440.0, amplitude: float = 0.4
) -> np.ndarray:
    times = np.arange(int(rate * seconds) + 123) / rate
    return amplitude * np.sin(2 * np.pi * hertz * times)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples)


def encode(
    sound: np.ndarray, rate: int, kind: str = "WAV", subtype: str = "PCM_16", **options
) -> bytes:
    """Return the bytes of a file of `sound`, (L,) or (L, C).

    libsndfile crashes if a long Vorbis is written at once.
    """
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    data = io.BytesIO()
    with soundfile.SoundFile(data, "w", rate, channels, subtype, format=kind, **options) as file:
        for start in range(0, len(sound), 8192):
            file.write(sound[start : start + 8192])
    return data.getvalue()


def silently(source, rate: int = RATE) -> np.ndarray:
    """load_audio(), where a warning is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return audio.load_audio(source, rate)


def amplitude_at(waveform: np.ndarray, rate: int, hertz: float) -> float:
    middle = waveform[len(waveform) // 8 : -len(waveform) // 8]
    window = np.hanning(len(middle))
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(middle)) / rate)
    return float(2 * np.abs(np.sum(window * turns * middle)) / np.sum(window))


def every_source(data: bytes, path: Path) -> Iterator:
    """A path, its name, a stream, an open file, which stay open."""
    path.write_bytes(data)
    yield from (path, str(path), stream := io.BytesIO(data))
    with path.open("rb") as opened:
        yield opened
        assert not opened.closed and not stream.closed


def refuse(source, name: str, *found: str) -> None:
    """load_audio() raises a ValueError of one line that names the source and what was found."""
    with pytest.raises(ValueError) as caught:
        audio.load_audio(source, RATE)
    text = str(caught.value)
    assert text.startswith(name)
    assert "\n" not in text
    assert all(word in text for word in found), text
    with pytest.raises(ValueError, match="expected|found"):
        list(audio.read_blocks(source, RATE))


def refuse_everywhere(data: bytes, path: Path, found: str) -> None:
    """`refuse` as a file, as bytes, and as a stream."""
    path.write_bytes(data)
    refuse(path, str(path), found)
    refuse(data, "audio bytes", found)
    refuse(io.BytesIO(data), "audio stream", found)


def with_value(value: float) -> bytes:
    sound = np.stack([sine(RATE), sine(RATE)], axis=1)
    sound[-1, 1] = value
    return encode(sound, RATE, subtype="FLOAT")


def encode_media(
    sound: np.ndarray, rate: int, kind: str, codec: str, layout: str = "mono"
) -> bytes:
    """The bytes of a file that the package av writes, of a sound (C, L)."""
    import av

    data = io.BytesIO()
    with av.open(data, "w", format=kind) as container:
        track = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(sound.astype(np.float32), "fltp", layout)
        frame.sample_rate = rate
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    return data.getvalue()


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time and cannot seek."""

    def __init__(self, data: bytes, step: int = 5000):
        self.data = memoryview(data)
        self.step = step
        self.given = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, count: int = -1) -> bytes:
        left = len(self.data) - self.given
        size = left if count < 0 else min(count, self.step, left)
        self.given += size
        return bytes(self.data[self.given - size : self.given])
