"""Audio files as they are found: nanos2t.audio, and what it does not know of containers and of soundfile.
    source -> opened -> audio.decode -> checked -> audio.resample -> blocks (L,), (L,) ... -> load (L,)
For most files that were cut short libsndfile raises nothing: `checked` looks for the signs. L samples."""

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import BinaryIO

import numpy as np
import soundfile
import torch

from nanos2t import audio

SUFFIXES = {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aif",
    ".aiff",
    ".au",
    ".caf",
    ".w64",
}
FORMATS = "WAV, FLAC, Ogg, MP3, AIFF, AU or CAF (convert others: ffmpeg -i FILE out.wav)"


def load_audio(source: audio.Source, sample_rate: int) -> np.ndarray:
    """What audio.load returns and raises, of more kinds of files, and of streams, read from their start.
    A WAV whose data chunk is cut short is only a warning."""
    return np.concatenate(list(read_blocks(source, sample_rate)))


def read_blocks(source: audio.Source, sample_rate: int) -> Iterator[np.ndarray]:
    """What `load` returns, in pieces as they are decoded; an error may come after some."""
    with open_audio(source) as (file, name):
        yield from audio.resample_blocks(checked(file, name), file.samplerate, sample_rate)


def from_array(
    waveform: np.ndarray | torch.Tensor, sample_rate: int, target_rate: int
) -> np.ndarray:
    """A 1-D array or tensor at `sample_rate` Hz as a waveform (L,), float32, at `target_rate` Hz.
    Integers of b bits are divided by 2**(b-1), unsigned ones about their middle, like the samples of a WAV.
    ValueError for another type or shape, no samples, NaN or infinity, a rate that is not above 0."""
    if isinstance(waveform, torch.Tensor):
        waveform = (
            (waveform.float() if waveform.is_floating_point() else waveform).detach().cpu().numpy()
        )
    waveform = np.asarray(waveform)
    kind, found = waveform.dtype.kind, f"{waveform.dtype} {waveform.shape}"
    if kind not in "fiu" or waveform.ndim != 1 or len(waveform) == 0:
        raise ValueError(
            f"waveform: expected numbers (L,), found {found}: average the channels first"
        )
    if kind != "f":
        waveform = waveform / 2.0 ** (8 * waveform.itemsize - 1) - (kind == "u")
    samples = waveform.astype(np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("waveform: expected finite samples, found NaN or infinity")
    return np.concatenate(list(audio.resample_blocks([samples], sample_rate, target_rate)))


class Stream:
    """What soundfile asks of a file object: the seeks to nowhere in damaged files may not raise there."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.tell = stream, stream.tell

    def readinto(self, buffer) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int) -> None:
        with suppress(OSError, ValueError):  # of a relative one BytesIO would make 0 if it is below
            self.stream.seek(
                *(self.tell() + offset, 0) if whence == os.SEEK_CUR else (offset, whence)
            )


class Decoder(soundfile.SoundFile):
    def __init__(self, stream: BinaryIO):
        self.stream = (
            stream  # a file on disk is read by libsndfile itself: Ctrl-C would be lost in callbacks
        )
        super().__init__(
            stream.fileno() if isinstance(stream, io.FileIO) else Stream(stream), closefd=False
        )

    def seekable(self) -> bool:
        return False  # else soundfile seeks after each read, which spoils the end of Opus and stops some FLAC


@contextmanager
def open_audio(source: audio.Source) -> Iterator[tuple[Decoder, str]]:
    """A decoder at the start of the source, and its name, which stands in all errors."""
    is_path = isinstance(source, str | os.PathLike)
    name = (
        os.fsdecode(source)
        if is_path
        else "audio bytes"
        if isinstance(source, bytes)
        else "audio stream"
    )
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with open(source, "rb", buffering=0) if is_path else nullcontext(stream) as stream:
            if not hasattr(stream, "read") or stream.read(0) != b"":
                raise ValueError(f"expected a path, bytes or binary file, found {type(source)}")
            with Decoder(from_start(stream)) as file:
                if file.samplerate < 1000:
                    raise ValueError(f"expected 1000 Hz or more, found {file.samplerate} Hz")
                yield file, name
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{name}: damaged or not audio ({error.error_string}), expected {FORMATS}"
        ) from None
    except OSError as error:
        raise ValueError(f"{name}: {error.strerror or error}, expected an audio file") from None
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def from_start(stream: BinaryIO) -> BinaryIO:
    """The stream at its start, from memory if it can not seek, or is a WAV with 0 for an unknown length."""
    stream = stream if stream.seekable() else io.BytesIO(stream.read())
    stream.seek(0)
    head = stream.read(4096)
    if not head:
        raise ValueError("empty, expected an audio file")
    if wav := re.match(
        rb"RIFF.*?data\0{4}(?![\w ]{4})", head, re.DOTALL
    ):  # what follows is not a next chunk
        stream = io.BytesIO(head[: wav.end() - 4] + b"\xff" * 4 + head[wav.end() :] + stream.read())
    stream.seek(0)
    return stream


def checked(file: Decoder, name: str) -> Iterator[np.ndarray]:
    """The sound of a file in mono pieces (L,), then an error if it was cut short, or for a WAV a warning."""
    decoded = 0
    for piece in audio.decode_blocks(file):
        decoded += len(piece)
        yield piece
    if file.format == "OGG" and not ends_with_whole_page(file.stream):
        raise ValueError(f"cut short, found {decoded} samples and part of a page")
    announced = (
        announced_by_mp3(file, decoded)
        if file.format == "MP3"
        else announced_by_chunk(file, decoded)
    )
    if decoded < announced:
        text = f"cut short or damaged, found {decoded} of {announced} samples"
        if file.format not in ("WAV", "WAVEX"):
            raise ValueError(text)
        warnings.warn(f"{name}: {text}", stacklevel=2)


def announced_by_chunk(file: Decoder, decoded: int) -> int:
    """The samples that a WAV, AIFF, AU or W64 says it has; `decoded` if all of them are there."""
    log = re.search(r"(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", file.extra_info)
    promised, found = map(int, log.groups()) if log else (0, 0)  # bytes
    if (
        found < promised and 0 < promised % 2**31 < 2**31 - 2**16
    ):  # a pipe: 0, or just under 2**31 or 2**32
        return int(promised / (found // decoded or found / decoded))
    return decoded


def announced_by_mp3(file: Decoder, decoded: int) -> int:
    """The samples that an MP3 says it has, else an estimate; `decoded` if that is right, give or take."""
    stream, position = file.stream, file.stream.tell()
    size, _ = stream.seek(0, os.SEEK_END), stream.seek(0)
    if re.search(rb"(Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17]", stream.read(2**20)):
        frame = 1152 if file.samplerate > 24_000 else 576  # some encoders count the header's
        return file.frames if decoded + frame < file.frames else decoded
    return decoded if size - position < 2**14 else decoded * size // position


def ends_with_whole_page(stream: BinaryIO) -> bool:
    """Whether the last page of an Ogg is all there: 26 bytes, n, the sizes of n segments, the segments."""
    stream.seek(max(0, stream.seek(0, os.SEEK_END) - 2**16))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > 26 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
