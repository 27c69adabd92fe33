"""Sound in: any audio file or array -> mono waveform at the model's rate, normalised and padded.

    path, bytes, stream -> blocks (L,), (L,) ... -> load (L,) -> normalise (L,) -> pad (B, L) and its mask

libsndfile decodes and soxr resamples, block by block. For most files that were cut short libsndfile raises
nothing, so `_check_length` looks for the signs. Legend: B batch, L samples, C channels. Rates are in Hz.
"""

import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import BinaryIO

import numpy as np
import soundfile
import torch

Source = str | os.PathLike | bytes | BinaryIO


def load(source: Source, sample_rate: int) -> np.ndarray:
    """An audio file as a mono waveform (L,), float32, full scale [-1, 1), at `sample_rate` Hz.
    `source`: a path, the bytes of a file, or a binary file object, read from its start. ValueError, one line
    with its name, if it is missing, empty, not audio, damaged, without samples, or holds NaN or infinity.
    A WAV whose data chunk is cut short is only a warning.
    """
    return np.concatenate(list(blocks(source, sample_rate)))


def blocks(source: Source, sample_rate: int, seconds: float = 30.0) -> Iterator[np.ndarray]:
    """What `load` returns, in blocks of `seconds` (the last is shorter), one of them in memory at a time.
    Raises and warns as `load` does, but on the way: a damaged file may yield blocks first.
    """
    if not (sample_rate > 0 and 1 <= seconds * sample_rate < np.inf):
        raise ValueError(f"expected a sample rate and seconds above 0, found {sample_rate} Hz, {seconds} s")
    size = round(seconds * sample_rate)
    with _opened(source) as (file, name):
        held = np.zeros(0, np.float32)
        for piece in resample(_decode(file, name), file.samplerate, sample_rate):
            held = np.concatenate([held, piece])
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
        if len(held):
            yield held


def from_array(waveform: np.ndarray | torch.Tensor, sample_rate: int, target_rate: int) -> np.ndarray:
    """A 1-D array or tensor at `sample_rate` Hz as a waveform (L,), float32, at `target_rate` Hz.
    Integers of b bits are divided by 2**(b-1), unsigned ones about their middle, like the samples of a WAV.
    ValueError for another type or shape, no samples, NaN or infinity, a rate that is not above 0.
    """
    if isinstance(waveform, torch.Tensor):
        waveform = (waveform.float() if waveform.is_floating_point() else waveform).detach().cpu().numpy()
    waveform = np.asarray(waveform)
    kind, found = waveform.dtype.kind, f"{waveform.dtype} {waveform.shape}"
    if kind not in "fiu" or waveform.ndim != 1 or len(waveform) == 0:
        raise ValueError(f"waveform: expected numbers (L,), found {found}: average the channels first")
    if not (sample_rate and target_rate and min(sample_rate, target_rate) > 0):
        raise ValueError(f"sample_rate: expected Hz above 0, found {sample_rate} (to {target_rate})")
    if kind != "f":
        waveform = waveform / 2.0 ** (8 * waveform.itemsize - 1) - (kind == "u")
    samples = _finite(waveform.astype(np.float32), "waveform")
    return np.concatenate(list(resample([samples], sample_rate, target_rate)))


def to_mono(block: np.ndarray) -> np.ndarray:
    """The mean over the channels of a block (L, C), as (L,)."""
    return block.mean(axis=1)


def resample(pieces: Iterable[np.ndarray], found: int, wanted: int) -> Iterator[np.ndarray]:
    """A waveform in pieces (L,) at `found` Hz, in pieces at `wanted` Hz, wherever the cuts are (soxr, HQ)."""
    if found == wanted:
        yield from pieces
        return
    import soxr

    stream = soxr.ResampleStream(found, wanted, 1, dtype="float32", quality="HQ")
    yield from map(stream.resample_chunk, pieces)
    tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)  # what the filter's delay held back
    yield tail if len(tail) else np.zeros(1, np.float32)  # a clip so short that it rounds to no sample


def normalise(waveform: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    """A waveform (L,) at mean 0 and population variance 1, float32: transformers' Wav2Vec2FeatureExtractor,
    do_normalize=True. `eps` is added to the variance, so silence stays silence.
    """
    waveform = np.asarray(waveform, np.float32)
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + eps)


def pad(waveforms: list[np.ndarray], min_samples: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms (L_i,) -> input_values (B, L), float32, and attention_mask (B, L), int64, 1 for samples.
    Zeros on the right count as samples up to `min_samples` (one encoder frame). ValueError for an empty list.
    """
    if len(waveforms) == 0:
        raise ValueError("waveforms: expected at least one, found none")
    samples = [max(len(waveform), min_samples) for waveform in waveforms]
    input_values = torch.zeros(len(samples), max(samples), dtype=torch.float32)  # (B, L)
    attention_mask = (torch.arange(max(samples)) < torch.tensor(samples)[:, None]).long()  # (B, L)
    for row, waveform in zip(input_values, waveforms, strict=True):
        row[: len(waveform)] = torch.tensor(waveform)
    return input_values, attention_mask


class _Decoder(soundfile.SoundFile):
    def seekable(self) -> bool:
        return False  # else soundfile seeks after each read, which spoils the end of Opus and stops some FLAC


@contextmanager
def _opened(source: Source) -> Iterator[tuple[_Decoder, str]]:
    """A decoder at the start of the source, and its name for errors. Those from elsewhere become ours."""
    is_path = isinstance(source, str | os.PathLike)
    name = os.fsdecode(source) if is_path else "audio bytes" if isinstance(source, bytes) else "audio stream"
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with open(source, "rb") if is_path else nullcontext(stream) as stream:
            if not hasattr(stream, "read") or stream.read(0) != b"":
                raise ValueError(f"{name}: expected a path, bytes or binary file, found {type(source)}")
            with _Decoder(_from_start(stream, name)) as file:
                if file.samplerate < 1000:
                    raise ValueError(f"{name}: expected 1000 Hz or more, found {file.samplerate} Hz")
                yield file, name
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}, expected an audio file") from None
    except soundfile.LibsndfileError as error:
        formats = "WAV, FLAC, Ogg, MP3, AIFF, AU or CAF (convert others: ffmpeg -i FILE out.wav)"
        raise ValueError(f"{name}: damaged or not audio ({error.error_string}), expected {formats}") from None


def _from_start(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream at its start, from memory if it can not seek, or is a WAV with 0 for an unknown length."""
    if not stream.seekable() or str(getattr(stream, "name", "")).lower().endswith(".raw"):
        stream = io.BytesIO(stream.read())  # has no name: soundfile takes .raw for samples without a header
    stream.seek(0)
    head = stream.read(4096)
    if not head:
        raise ValueError(f"{name}: empty, expected an audio file")
    if wav := re.match(rb"RIFF.*?data\0{4}(?![\w ]{4})", head, re.DOTALL):  # what follows is not a next chunk
        stream = io.BytesIO(head[: wav.end() - 4] + b"\xff" * 4 + head[wav.end() :] + stream.read())
    stream.seek(0)
    return stream


def _decode(file: _Decoder, name: str) -> Iterator[np.ndarray]:
    """The sound of a file as mono pieces (L,) at the file's own rate."""
    decoded = 0
    while len(block := file.read(65_536, dtype="float32", always_2d=True)):  # (L, C)
        decoded += len(block)
        yield to_mono(_finite(block, name))
    if decoded == 0:
        raise ValueError(f"{name}: expected samples, found none")
    _check_length(file, name, decoded)


def _finite(samples: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise ValueError(f"{name}: expected finite samples, found NaN or infinity")
    return samples


def _check_length(file: _Decoder, name: str, decoded: int) -> None:
    """Fewer samples decoded than the file announces are an error, or for a WAV a warning."""
    stream, announced, slack = file.name, file.frames, 0  # soundfile's "name" is the stream it was given
    position, size = stream.tell(), stream.seek(0, os.SEEK_END)
    if log := re.search(r"(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", file.extra_info):
        promised, found = int(log[1]), int(log[2])  # bytes, but a pipe gives 0, or just under 2**31 or 2**32
        if found < promised and 0 < promised % 2**31 < 2**31 - 2**16:
            announced = int(promised / (found // decoded or found / decoded))
    elif file.format == "OGG":
        stream.seek(max(0, size - 2**16))
        tail = stream.read()
        page = tail[tail.rfind(b"OggS") :]  # the last one: 26 bytes, n, the sizes of n segments, the segments
        if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            raise ValueError(f"{name}: cut short, found {decoded} samples and part of a page")
    elif file.format == "MP3":
        stream.seek(0)
        slack = 1152 if file.samplerate > 24_000 else 576  # one frame: some encoders count the header's
        if not re.search(rb"(Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17]", stream.read(2**20)):  # estimated:
            announced = decoded if size - position < 2**14 else decoded * size // position
    if decoded + slack < announced < 2**62:  # 2**63 - 1: a FLAC written to a pipe, length unknown
        text = f"{name}: cut short or damaged, found {decoded} of {announced} samples"
        if file.format not in ("WAV", "WAVEX"):
            raise ValueError(text)
        warnings.warn(text, stacklevel=2)
