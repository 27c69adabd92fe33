"""Audio in the formats of phones and browsers, with the optional package av.

libsndfile does not read m4a, mp4, 3gp, webm or amr. `av` carries the decoders of FFmpeg, and
`MediaFile` makes it look like a soundfile.SoundFile, as far as recordings/decoding.py needs one.

Shapes: L samples, C channels.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

import numpy as np

# What an error suggests in place of a file that cannot be read.
FORMATS = "WAV, FLAC, Ogg, MP3, AIFF, AU or CAF (convert others: ffmpeg -i FILE out.wav)"

# How a file of each format begins, FFmpeg's name of the format, and what a message calls it. FFmpeg
# gets the name so that it does not try others, such as playlists, which would open further files.
SIGNATURES = (
    (rb".{4}(ftyp|moov|mdat|wide)", "mov", "MPEG-4 (m4a, mp4, 3gp, mov)"),
    (rb"\x1aE\xdf\xa3", "matroska", "WebM or Matroska"),
    (rb"#!AMR", "amr", "AMR"),
    (rb"0&\xb2u\x8ef\xcf\x11", "asf", "Windows Media"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "aac", "AAC"),
)
MEDIA_SUFFIXES = frozenset(
    [".m4a", ".mp4", ".m4b", ".m4v", ".mov", ".3gp", ".3g2", ".webm", ".weba", ".mkv", ".mka"]
    + [".amr", ".wma", ".wmv", ".aac"]
)

# Formats that know their length, to some frames of the codec at either end, in seconds.
EXACT_FORMATS = ("mov", "matroska")
LENGTH_TOLERANCE = 0.25

UNKNOWN_LENGTH = 2**63 - 1  # samples, as libsndfile says it


def find_signature(stream: BinaryIO) -> tuple[str, str] | None:
    """Return FFmpeg's name and our name of a stream's format; None if it is none of SIGNATURES."""
    stream.seek(0)
    head = stream.read(16)
    stream.seek(0)
    for pattern, format_name, description in SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return format_name, description
    return None


class MediaFile:
    """An open audio or video file that av decodes; of a video, the first audio track.

    `frames` is the number of samples that the file announces. Raises ValueError if av is not
    installed, or if the file is damaged or has no audio.
    """

    def __init__(self, stream: BinaryIO, label: str, signature: tuple[str, str]):
        format_name, description = signature
        try:
            import av
        except ImportError:
            raise ValueError(
                f"this is {description}, expected one more package to read it (the file is not "
                "damaged): pip install 'nanos2t[media]'; or convert it: ffmpeg -i FILE out.wav"
            ) from None

        # What recordings/decoding.py reads of a soundfile.SoundFile.
        self.label = label
        self.stream = stream
        self.format = format_name
        self.extra_info = ""
        self.error_type = av.FFmpegError
        self.pending = np.zeros((0, 1), np.float32)  # decoded, but not read yet

        # Open the container and find its first audio track.
        try:
            self.container = av.open(stream, format=format_name)
        except (av.FFmpegError, EOFError) as error:
            raise ValueError(
                f"damaged {description} ({reason_of(error)}), expected it whole, or {FORMATS}"
            ) from None
        if not self.container.streams.audio:
            self.container.close()
            raise ValueError(f"{description} cut short or without sound, expected an audio track")

        track = self.container.streams.audio[0]
        self.samplerate = track.rate
        self.frames = self.find_length(track)
        self.blocks = self.decode_track(track, av.AudioResampler(format="fltp"))

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *exception) -> None:
        self.container.close()

    def find_length(self, track) -> int:
        """Return the samples that the track or else the file announces."""
        if track.duration:
            return round(track.duration * track.time_base * track.rate)
        if self.container.duration:
            return round(self.container.duration * track.rate / 1_000_000)  # microseconds
        return UNKNOWN_LENGTH

    def decode_track(self, track, converter) -> Iterator[np.ndarray]:
        """Yield the track's samples in blocks (L, C), float32, as they are decoded."""
        try:
            for frame in self.container.decode(track):
                # A time of its own would make the converter fill gaps with silence.
                frame.pts = None
                for converted in converter.resample(frame):
                    yield converted.to_ndarray().T
        except (self.error_type, EOFError) as error:
            raise ValueError(f"cut short or damaged ({reason_of(error)})") from None

    def read(self, count: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Return the next `count` samples (L, C), fewer at the end."""
        # What is pending is the end of the block that was decoded last.
        blocks = [self.pending] if len(self.pending) > 0 else []
        num_samples = len(self.pending)
        while num_samples < count:
            block = next(self.blocks, None)
            if block is None:
                break
            blocks.append(block)
            num_samples += len(block)

        samples = np.concatenate(blocks) if blocks else self.pending
        self.pending = samples[count:]
        return samples[:count]

    def seek(self, first: int) -> None:
        """Go from the beginning to sample `first`; decodes what precedes it, to be exact."""
        for block in self.blocks:
            if len(block) > first:
                self.pending = block[first:]
                return
            first -= len(block)

    def check_decoded(self, decoded: int) -> None:
        """Raise ValueError if fewer samples were decoded than the file announces."""
        is_exact = self.format in EXACT_FORMATS and self.frames < UNKNOWN_LENGTH
        if is_exact and decoded + LENGTH_TOLERANCE * self.samplerate < self.frames:
            raise ValueError(f"cut short or damaged, found {decoded} of {self.frames} samples")


def reason_of(error: Exception) -> str:
    """Return FFmpeg's description of an error, without its number and function."""
    with suppress(AttributeError):
        return error.strerror or "unknown"
    return str(error)
