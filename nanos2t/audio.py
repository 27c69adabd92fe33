"""From audio to the model's input: load, resample, normalise and pad waveforms.

`load_audio` reads a path, bytes or a stream, `from_array` takes samples that are in memory. Both
return a mono waveform at the model's sample rate. `normalise` and `pad` make a batch of several.
What is special about containers, and how damaged files are recognised, is in recordings/.

Shapes: B batch, L samples. Rates are in Hz.
"""

import math
from collections.abc import Iterable, Iterator
from numbers import Real

import numpy as np
import torch

from nanos2t.recordings import decoding
from nanos2t.recordings.channels import MAX_RATE, check_samples
from nanos2t.recordings.decoding import AudioSource


def load_audio(
    source: AudioSource, sample_rate: int, start: float = 0.0, end: float | None = None
) -> np.ndarray:
    """Load an audio file, or the part of it from `start` to `end` seconds.

    source: a path, the bytes of a file, or a binary stream, which is read from its beginning.

    Returns a mono waveform (L,), float32, at `sample_rate` Hz. Integer files are in
    [-1, 1) before they are resampled.
    Raises ValueError, in one line that names the source, if it is missing, not audio, damaged, cut
    short, empty, not finite, or shorter than `end` (by more than some milliseconds), or if a number
    is not one of Hz or seconds. A WAV whose data chunk is cut short is loaded with a warning. All
    streams of a file are loaded if several files were joined to one.
    """
    return np.concatenate(list(read_blocks(source, sample_rate, start, end)))


def read_blocks(
    source: AudioSource, sample_rate: int, start: float = 0.0, end: float | None = None
) -> Iterator[np.ndarray]:
    """Yield what `load_audio` returns in blocks (L,), as they are decoded.

    Raises ValueError as `load_audio` does; damage is found after the blocks that precede it.
    """
    check_rate(sample_rate)
    check_seconds(start, "start")
    if end is not None:
        check_seconds(end, "end")
    with decoding.open_audio(source) as file:
        is_part = start > 0 or end is not None
        if isinstance(file, decoding.PipedFile):
            blocks = decode_streams(follow_pipe(file), sample_rate)
            if is_part:
                blocks = cut_blocks(blocks, sample_rate, start, end)
            yield from blocks
            return
        if is_part and decoding.is_in_first_stream(file, end):
            blocks = decoding.decode_part(file, start, end)
            yield from resample_blocks(blocks, file.samplerate, sample_rate)
            return

        # Several files may have been joined to one. A part of that can begin in one of them and end
        # in another.
        with decoding.open_streams(file) as streams:
            if is_part and len(streams) == 1:
                blocks = decoding.decode_part(file, start, end)
                yield from resample_blocks(blocks, file.samplerate, sample_rate)
                return
            blocks = decode_streams(streams, sample_rate)
            if is_part:
                blocks = cut_blocks(blocks, sample_rate, start, end)
            yield from blocks


def follow_pipe(file: decoding.PipedFile) -> Iterator[decoding.PipedFile]:
    """Yield the WAVs or FLACs that come through a pipe, each when the one before it was decoded."""
    current = file
    while True:
        yield current
        stream = current.stream.find_next(file.label)
        if stream is None:
            return
        current = decoding.PipedFile(stream, file.label)


def decode_streams(streams: Iterable[decoding.AudioFile], sample_rate: int) -> Iterator[np.ndarray]:
    """Yield the blocks (L,) of several streams, which may have different rates, at one rate."""
    for stream in streams:
        blocks = decoding.decode_file(stream)
        yield from resample_blocks(blocks, stream.samplerate, sample_rate)


def cut_blocks(
    blocks: Iterable[np.ndarray], sample_rate: int, start: float, end: float | None
) -> Iterator[np.ndarray]:
    """Yield what is between `start` and `end` seconds of a waveform that comes in blocks (L,).

    Raises ValueError if the waveform is shorter.
    """
    first = round(start * sample_rate)
    last = math.inf if end is None else round(end * sample_rate)
    position = 0  # of the block in the waveform
    for block in blocks:
        begin = max(first - position, 0)
        stop = min(last - position, len(block))
        if begin < stop:
            yield block[begin:stop]
        position += len(block)
        if position >= last:
            return

    tolerance = decoding.END_TOLERANCE * sample_rate
    is_late = end is not None and last > position + tolerance
    if first >= position or is_late:
        raise ValueError(
            f"{position / sample_rate:g} s long, expected a recording that contains the part from "
            f"{start:g} s to {end or 'its end'}"
        )


def from_array(
    waveform: np.ndarray | torch.Tensor, sample_rate: int, target_rate: int
) -> np.ndarray:
    """Convert a 1-D array or tensor at `sample_rate` Hz to a waveform (L,) at `target_rate` Hz.

    Integers are scaled to [-1, 1) as the samples of a WAV are: b bits are divided by 2**(b - 1),
    and the middle of an unsigned type becomes 0.

    Raises ValueError for another type or shape, no samples, NaN or infinity, or a rate that is not
    a number of Hz.
    """
    check_rate(sample_rate)
    check_rate(target_rate)

    # Convert to a numpy array.
    if isinstance(waveform, torch.Tensor):
        waveform = waveform.detach().cpu()
        if waveform.is_floating_point():
            waveform = waveform.float()  # numpy has no bfloat16
        waveform = waveform.numpy()
    waveform = np.asarray(waveform)

    # A waveform is one-dimensional.
    kind = waveform.dtype.kind
    if kind not in "fiu" or waveform.ndim != 1 or len(waveform) == 0:
        message = f"waveform: expected numbers (L,), found {waveform.dtype} {waveform.shape}"
        if waveform.ndim == 2:
            message += ": average the channels first"
        raise ValueError(message)

    # Scale integers to [-1, 1).
    if kind in "iu":
        bits = 8 * waveform.itemsize
        waveform = waveform / 2.0 ** (bits - 1)
    if kind == "u":
        waveform = waveform - 1.0

    # A single NaN would make all of the model's output NaN.
    samples = waveform.astype(np.float32)
    check_samples(samples, "waveform: ")
    return np.concatenate(list(resample_blocks([samples], sample_rate, target_rate)))


def check_rate(sample_rate: float) -> None:
    """Raise ValueError unless `sample_rate` is a number of Hz, from 1 to MAX_RATE."""
    if not is_number(sample_rate) or not 1 <= sample_rate <= MAX_RATE:
        raise ValueError(
            f"sample_rate: expected a number of Hz, 1 to {MAX_RATE}, found {sample_rate!r:.40}"
        )


def check_seconds(seconds: float, name: str) -> None:
    """Raise ValueError that names the argument unless `seconds` is finite and not negative."""
    if not is_number(seconds) or not 0 <= seconds < math.inf:
        raise ValueError(f"{name}: expected seconds, 0 or more, found {seconds!r:.40}")


def is_number(value: object) -> bool:
    """Check whether a value is a real number; True and False, and arrays of one number, are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def resample_blocks(
    blocks: Iterable[np.ndarray], sample_rate: int, target_rate: int
) -> Iterator[np.ndarray]:
    """Resample a waveform that comes in blocks (L,), with soxr at high quality (HQ).

    The result does not depend on where the blocks end.
    """
    if sample_rate == target_rate:
        yield from blocks
        return

    import soxr

    resampler = soxr.ResampleStream(sample_rate, target_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)

    # The filter's delay held back the last samples. A clip can be so short that it has no sample at
    # the new rate: it becomes one of silence.
    tail = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(tail) == 0:
        tail = np.zeros(1, np.float32)
    yield tail


def normalise(waveform: np.ndarray, eps: float = 1e-7) -> np.ndarray:
    """Scale a waveform (L,) to mean 0 and variance 1; silence becomes 0.

    As transformers' Wav2Vec2FeatureExtractor does with do_normalize=True.
    """
    waveform = np.asarray(waveform, np.float32)
    return (waveform - waveform.mean()) / np.sqrt(waveform.var() + eps)


def pad(waveforms: list[np.ndarray], min_samples: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad waveforms (L_i,) with zeros on the right to one batch.

    Waveforms shorter than `min_samples`, the samples of one frame, are extended by zeros that
    count as samples.

    Returns input_values (B, L), float32, and attention_mask (B, L), int64: 1 for samples, 0 for
    padding. Raises ValueError for an empty list.
    """
    if len(waveforms) == 0:
        raise ValueError("waveforms: expected at least one, found none")
    lengths = np.array([max(len(waveform), min_samples) for waveform in waveforms])  # (B,)
    longest = lengths.max()

    input_values = np.zeros((len(waveforms), longest), np.float32)  # (B, L)
    for row, waveform in zip(input_values, waveforms):
        row[: len(waveform)] = waveform

    attention_mask = np.arange(longest) < lengths[:, None]  # (B, L)
    return torch.from_numpy(input_values), torch.from_numpy(attention_mask).long()
