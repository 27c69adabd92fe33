"""Sound in: any audio file -> mono waveform at the model's rate, normalised and padded.
    path, bytes, stream -> blocks (L,), (L,) ... -> load (L,) -> normalise (L,) -> pad (B, L) and its mask
B batch, L samples, C channels; rates in Hz. audio_files.py loads odd and damaged containers, too."""

import io
import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import soundfile
import torch

Source = str | os.PathLike | bytes | BinaryIO


def load_audio(source: Source, sample_rate: int) -> np.ndarray:
    """Path, bytes or binary file (at its start) -> mono waveform (L,), float32, [-1, 1), at `sample_rate` Hz.
    ValueError, one line with its name, if missing, not audio, damaged, cut short, empty, NaN or infinite."""
    return np.concatenate(list(read_blocks(source, sample_rate)))


def read_blocks(source: Source, sample_rate: int) -> Iterator[np.ndarray]:
    """What `load` returns, in pieces as they are decoded; an error may come after the first of them."""
    name = (
        os.fsdecode(source)
        if isinstance(source, str | os.PathLike)
        else f"audio {type(source).__name__}"
    )
    try:
        with soundfile.SoundFile(
            io.BytesIO(source) if isinstance(source, bytes) else source
        ) as file:
            yield from resample_blocks(decode_blocks(file), file.samplerate, sample_rate)
    except (OSError, TypeError, ValueError, soundfile.LibsndfileError) as error:
        raise ValueError(f"{name}: {error}") from None


def decode_blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The sound of an open file as mono pieces (L,) at its own rate. ValueError as in `load`, but no name."""
    decoded = 0
    while len(block := file.read(65_536, dtype="float32", always_2d=True)):  # (L, C)
        if not np.isfinite(block).all():
            raise ValueError("expected finite samples, found NaN or infinity")
        decoded += len(block)
        yield block.mean(axis=1)  # (L,)
    if decoded == 0:
        raise ValueError("expected samples, found none")
    if (
        decoded < file.frames < 2**62 and file.format != "MP3"
    ):  # 2**63 - 1: unknown; MP3: an estimate
        raise ValueError(f"cut short or damaged, found {decoded} of {file.frames} samples")


def resample_blocks(pieces: Iterable[np.ndarray], found: int, wanted: int) -> Iterator[np.ndarray]:
    """A waveform in pieces (L,) at `found` Hz, in pieces at `wanted` Hz, wherever the cuts are (soxr, HQ)."""
    if not (found and wanted and min(found, wanted) > 0):
        raise ValueError(f"sample_rate: expected Hz above 0, found {found} (to {wanted})")
    if found == wanted:
        yield from pieces
        return
    import soxr

    stream = soxr.ResampleStream(found, wanted, 1, dtype="float32", quality="HQ")
    yield from map(stream.resample_chunk, pieces)
    tail = stream.resample_chunk(
        np.zeros(0, np.float32), last=True
    )  # what the filter's delay held back
    yield (
        tail if len(tail) else np.zeros(1, np.float32)
    )  # a clip so short that it rounds to no sample


def normalise(waveform: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    """A waveform (L,) at mean 0 and variance 1, silence at 0: Wav2Vec2FeatureExtractor, do_normalize=True."""
    waveform = np.asarray(waveform, np.float32)
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + eps)


def pad(waveforms: list[np.ndarray], min_samples: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms (L_i,) -> input_values (B, L), float32, and attention_mask (B, L), int64, 1 for samples.
    Zeros on the right count as samples up to `min_samples` (one frame). ValueError for an empty list."""
    if len(waveforms) == 0:
        raise ValueError("waveforms: expected at least one, found none")
    samples = np.array([max(len(waveform), min_samples) for waveform in waveforms])  # (B,)
    input_values = [np.pad(waveform, (0, samples.max() - len(waveform))) for waveform in waveforms]
    attention_mask = np.arange(samples.max()) < samples[:, None]  # (B, L)
    return torch.tensor(np.stack(input_values), dtype=torch.float32), torch.tensor(
        attention_mask
    ).long()
