"""Audio files as they are found: open containers, decode them, and recognise damaged ones.

`open_audio` gives an open file whatever the source is, `decode_file` and `decode_part` yield its
sound as mono blocks. libsndfile decodes most files that were cut short without an error, so that
`check_decoded` compares what was decoded with what each container announces.

Shapes: L samples, C channels.
"""

import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import BinaryIO

import numpy as np
import soundfile

from nanos2t.recordings.channels import MAX_RATE, check_samples, mix_blocks
from nanos2t.recordings.ends import ends_with_whole_page, find_doubt, measure_mp3
from nanos2t.recordings.media import FORMATS, LENGTH_TOLERANCE, MediaFile, find_signature
from nanos2t.recordings.ogg import check_pages
from nanos2t.recordings.pipes import PipedStream, PipedWav, open_pipe
from nanos2t.recordings.streams import (
    StreamPart,
    find_streams,
    find_wav_starts,
    is_mp3,
    measure_flac_tag,
)

AudioSource = str | os.PathLike | bytes | BinaryIO

# Of a folder, the files with these names are taken for audio.
SUFFIXES = frozenset(
    [".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mpga"]
    + [".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph", ".nist", ".voc", ".avr", ".paf"]
    + [".pvf", ".sf", ".ircam", ".htk", ".iff", ".svx", ".8svx", ".sds", ".wve"]
)

BLOCK_SAMPLES = 65_536  # decoded at a time: some seconds, so that long files need little memory
MIN_RATE = 1000  # Hz: a lower rate is damage, and resampling from 1 Hz would fill the memory
UNKNOWN_LENGTH = 2**62  # libsndfile's number of samples is above this if a file does not say it
STDERR_LOCK = threading.Lock()  # held while file descriptor 2 is another file
END_TOLERANCE = 0.05  # seconds: times in a manifest are rounded, and may be those of another format
MP3_FRAME = 1152  # samples of an MPEG frame, 576 up to 24 kHz: some encoders count one too many


class TolerantStream:
    """Adapt a Python stream to soundfile, so that a seek outside of the stream does not raise.

    In damaged files libsndfile seeks to impossible places. An exception in its callback would only
    be printed; a failed seek is ignored, as libsndfile does it for files that it opens itself.
    """

    def __init__(self, stream: BinaryIO):
        self.stream = stream

    def tell(self) -> int:
        return self.stream.tell()

    def readinto(self, buffer) -> int:
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int) -> None:
        # BytesIO goes to its start if a relative seek is to before it, where a file refuses.
        if whence == os.SEEK_CUR:
            offset = self.stream.tell() + offset
            whence = os.SEEK_SET
        with suppress(OSError, ValueError):
            self.stream.seek(offset, whence)


class AudioFile(soundfile.SoundFile):
    """An open audio file. `label` names the source in errors and warnings.

    whole: the file that `stream` is a part of, if it is one.
    """

    def __init__(self, stream: BinaryIO, label: str, whole: BinaryIO | None = None):
        self.label = label
        self.whole = whole or stream
        self.stream = stream
        self.is_mp3 = is_mp3(stream.read(4))
        stream.seek(0)
        # libsndfile reads a file on disk itself: Ctrl-C would be lost in a callback.
        is_on_disk = isinstance(stream, io.FileIO)
        file = stream.fileno() if is_on_disk else TolerantStream(stream)
        with silence_mpg123(self.is_mp3):
            super().__init__(file, closefd=False)

    def read(self, *arguments, **options) -> np.ndarray:
        with silence_mpg123(self.is_mp3):
            return super().read(*arguments, **options)

    def seek(self, frames: int, whence: int = os.SEEK_SET) -> int:
        with silence_mpg123(self.is_mp3):
            return super().seek(frames, whence)

    def seekable(self) -> bool:
        # soundfile seeks after each read of a seekable file. That spoils the end of Opus files and
        # stops at some places of FLAC files.
        return False


class PipedFile(AudioFile):
    """An open WAV or FLAC that comes through a pipe: `stream` is a PipedStream."""

    def check_decoded(self, decoded: int) -> None:
        if isinstance(self.stream, PipedWav):
            self.stream.check_decoded(decoded, self.frames, self.label)
        else:
            check_header_length(self, decoded)


@contextmanager
def silence_mpg123(is_mp3: bool) -> Iterator[None]:
    """Discard what is written to file descriptor 2 meanwhile, if an MP3 is decoded.

    libmpg123, in libsndfile, writes notes on tags and lengths there, and there is no other way to
    stop that.
    """
    if not is_mp3:
        yield
        return
    with STDERR_LOCK:
        try:
            saved = os.dup(2)
        except OSError:
            # It is closed already.
            yield
            return
        try:
            with open(os.devnull, "wb") as sink:
                os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)


# Step 1: open whatever the source is.


@contextmanager
def open_audio(source: AudioSource) -> Iterator[AudioFile | MediaFile]:
    """Open a path, bytes or a stream at its beginning, as a context manager.

    Raises ValueError, in one line that begins with the source's label, if it cannot be opened;
    errors of the `with` block are given the same label.
    """
    label = label_source(source)
    try:
        with open_stream(source) as stream:
            if not hasattr(stream, "read") or stream.read(0) != b"":
                raise ValueError(f"expected a path, bytes or binary file, found {type(source)}")
            with open_decoder(rewind_stream(stream), label) as file:
                if not MIN_RATE <= file.samplerate <= MAX_RATE:
                    raise ValueError(
                        f"expected {MIN_RATE} to {MAX_RATE} Hz, found {file.samplerate} Hz"
                    )
                yield file
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"{label}: damaged or not audio ({error.error_string}), expected {FORMATS}"
        ) from None
    except OSError as error:
        raise ValueError(f"{label}: {error.strerror or error}, expected an audio file") from None
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None


def open_decoder(stream: BinaryIO, label: str) -> AudioFile | MediaFile:
    """Open a stream with libsndfile, or with av if its format is one that only av reads."""
    if isinstance(stream, PipedStream):
        return PipedFile(stream, label)
    signature = find_signature(stream)
    if signature is not None:
        return MediaFile(stream, label, signature)

    # libsndfile opens most files whose streams were joined, and reads the first, but no WAV; and
    # no FLAC with a tag at its end.
    size = stream.seek(0, os.SEEK_END)
    wav_starts = find_wav_starts(stream, size)
    end = size
    if len(wav_starts) > 1:
        end = wav_starts[1]
    else:
        end -= measure_flac_tag(stream, size)
    stream.seek(0)
    if end < size:
        return AudioFile(StreamPart(stream, 0, end), label, stream)
    return AudioFile(stream, label)


def label_source(source: AudioSource) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    if isinstance(source, bytes):
        return "audio bytes"
    return "audio stream"


def open_stream(source: AudioSource):
    """Return a context manager of a binary stream; a stream of the caller's is left open."""
    if isinstance(source, str | os.PathLike):
        return open(source, "rb", buffering=0)
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return nullcontext(source)


def rewind_stream(stream: BinaryIO) -> BinaryIO:
    """Return the stream at its beginning, copied to memory if libsndfile needs that.

    A pipe is copied because it cannot seek, unless it brings a WAV or FLAC. A WAV is copied if its
    data chunk has the length 0, as programs that write to a pipe leave it: it gets the greatest
    length, which libsndfile takes to mean that the samples go on to the end of the file.
    """
    if not stream.seekable():
        stream = open_pipe(stream)
        if isinstance(stream, PipedStream):
            return stream
    stream.seek(0)
    head = stream.read(4096)
    if not head:
        raise ValueError("empty, expected an audio file")

    # If the name of a further chunk follows, the data chunk is really empty.
    match = re.match(rb"RIFF.*?data\0{4}(?![\w ]{4})", head, re.DOTALL)
    if match:
        before_length = head[: match.end() - 4]
        after_length = head[match.end() :] + stream.read()
        stream = io.BytesIO(before_length + b"\xff" * 4 + after_length)
    stream.seek(0)
    return stream


@contextmanager
def open_streams(file: AudioFile | MediaFile) -> Iterator[list[AudioFile | MediaFile]]:
    """Open the streams of a file that may be several files joined to one, as a context manager.

    A file with one stream is itself the only one.
    """
    bounds = []
    if isinstance(file, AudioFile):
        bounds = find_streams(file.whole)
    if len(bounds) <= 1:
        yield [file]
        return
    with ExitStack() as stack:
        parts = []
        for start, end in bounds:
            part = AudioFile(StreamPart(file.whole, start, end), file.label)
            parts.append(stack.enter_context(part))
        yield parts


def is_in_first_stream(file: AudioFile | MediaFile, end: float | None) -> bool:
    """Check whether a part that ends at `end` seconds needs no search for further streams.

    The headers of FLAC and MP3 have the length of the first stream.
    """
    if isinstance(file, MediaFile):
        return True
    if end is None or file.format not in ("FLAC", "MP3"):
        return False
    return end * file.samplerate <= file.frames < UNKNOWN_LENGTH


def measure_seconds(file: AudioFile | MediaFile) -> float:
    """Return the seconds that an open file announces, in all of its streams."""
    with open_streams(file) as parts:
        return sum(part.frames / part.samplerate for part in parts)


# Step 2: decode.


def decode_file(file: AudioFile | MediaFile) -> Iterator[np.ndarray]:
    """Yield a whole file as mono blocks (L,) at its own rate, then check that none is missing.

    Of an Ogg the pages are checked first.
    """
    check_container(file)
    decoded = 0
    for block in mix_blocks(decode_blocks(file), file.samplerate, file.label):
        decoded += len(block)
        yield block
    check_decoded(file, decoded)


def decode_part(
    file: AudioFile | MediaFile, start: float, end: float | None
) -> Iterator[np.ndarray]:
    """Yield the part from `start` to `end` seconds as mono blocks (L,) at the file's own rate.

    An `end` up to END_TOLERANCE after the file's end is the file's end. Raises ValueError if the
    file is shorter, if fewer samples can be decoded, or if a page of an Ogg is damaged.
    """
    check_container(file)
    first = round(start * file.samplerate)
    if end is None:
        last = file.frames
        part = f"the part from {start:g} s to its end"
    else:
        last = round(end * file.samplerate)
        if last <= file.frames + END_TOLERANCE * file.samplerate:
            last = min(last, file.frames)
        part = f"the part from {start:g} s to {end:g} s"
    if not 0 <= first < last <= file.frames:
        seconds = file.frames / file.samplerate
        raise ValueError(f"{seconds:g} s long, expected a recording that contains {part}")

    # Decode only the part.
    file.seek(first)
    decoded = 0
    for block in mix_blocks(decode_blocks(file, last - first), file.samplerate, file.label):
        decoded += len(block)
        yield block

    # The header may announce samples that are not there any more.
    tolerance = 0
    if file.format == "MP3":
        tolerance = MP3_FRAME
    elif isinstance(file, MediaFile):
        tolerance = LENGTH_TOLERANCE * file.samplerate
    if decoded == 0 or decoded + tolerance < last - first:
        raise ValueError(
            f"cut short or damaged, found {decoded} of {last - first} samples of {part}"
        )


def decode_blocks(
    file: soundfile.SoundFile | MediaFile, samples: int | None = None
) -> Iterator[np.ndarray]:
    """Yield the next `samples`, or all that follow, as blocks (L, C).

    Raises ValueError for NaN, infinity and samples above MAX_SAMPLE.
    """
    decoded = 0
    while samples is None or decoded < samples:
        count = BLOCK_SAMPLES
        if samples is not None:
            count = min(BLOCK_SAMPLES, samples - decoded)
        block = file.read(count, dtype="float32", always_2d=True)
        if len(block) == 0:
            return
        check_samples(block)
        decoded += len(block)
        yield block


# Step 3: recognise files that were cut short or damaged.


def check_container(file: AudioFile | MediaFile) -> None:
    """Raise ValueError if a page of an Ogg is damaged or missing."""
    if file.format == "OGG":
        check_pages(file.stream, file.label)


def check_decoded(file: AudioFile | MediaFile, decoded: int) -> None:
    """Compare the number of decoded samples with what the container announces.

    Raises ValueError if samples are missing; for a WAV it is a warning, since its samples are not
    compressed and all that are left are right. Also warns about ends that look cut.
    """
    if decoded == 0:
        raise ValueError("expected samples, found none")
    if isinstance(file, MediaFile | PipedFile):
        file.check_decoded(decoded)
        return
    check_header_length(file, decoded)
    if file.format == "OGG" and not ends_with_whole_page(file.stream):
        raise ValueError(f"cut short, found {decoded} samples and part of a page")

    if file.format == "MP3":
        announced = announced_by_mp3(file, decoded)
    else:
        announced = announced_by_chunk(file, decoded)
    if decoded >= announced:
        message = find_doubt(file.stream, file.format)
        if not message:
            return
    else:
        message = f"cut short or damaged, found {decoded} of {announced} samples"
        if file.format not in ("WAV", "WAVEX", "RF64"):
            raise ValueError(message)
    warnings.warn(f"{file.label}: {message}", stacklevel=2)


def check_header_length(file: soundfile.SoundFile, decoded: int) -> None:
    """Raise ValueError if `decoded` is below the number of samples that libsndfile found announced.

    Of an MP3 that number is an estimate.
    """
    is_exact = file.format != "MP3" and file.frames < UNKNOWN_LENGTH
    if is_exact and decoded < file.frames:
        raise ValueError(f"cut short or damaged, found {decoded} of {file.frames} samples")


def announced_by_chunk(file: AudioFile, decoded: int) -> int:
    """Return the samples that the header of a WAV, AIFF, AU or W64 announces.

    libsndfile logs the bytes of a chunk that is longer than the file. Returns `decoded` if the file
    is complete.
    """
    match = re.search(r"does not match value from 'ds64' chunk of (\d+)", file.extra_info)
    if match is not None and int(match[1]) < UNKNOWN_LENGTH:
        return int(match[1])

    match = re.search(r"(?:data|SSND|Data Size|riff) *: (\d+) \(should be (\d+)\)", file.extra_info)
    if match is None:
        return decoded
    announced_bytes = int(match[1])
    present_bytes = int(match[2])

    # Programs that write to a pipe do not know the length: 0, or just under 2**31 or 2**32.
    is_real_length = 0 < announced_bytes % 2**31 < 2**31 - 2**16
    if announced_bytes <= present_bytes or not is_real_length:
        return decoded

    # A sample has a whole number of bytes, unless it is compressed (ADPCM).
    sample_bytes = present_bytes // decoded
    if sample_bytes == 0:
        sample_bytes = present_bytes / decoded
    return int(announced_bytes / sample_bytes)


def announced_by_mp3(file: AudioFile, decoded: int) -> int:
    """Return the samples that an MP3 announces, or else an estimate.

    Returns `decoded` if that is right within the accuracy of either.
    """
    stream = file.stream
    position = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)

    # An encoder's first frame may hold the number of frames: the lowest of its flags says so.
    if re.search(rb"(Xing|Info)\0\0\0[\1\3\5\7\11\13\15\17]", stream.read(2**20)):
        tolerance = MP3_FRAME if file.samplerate > 24_000 else MP3_FRAME // 2
        return file.frames if decoded + tolerance < file.frames else decoded

    # Else count the frames: libsndfile decodes as many as it estimates from the first one.
    samples, _ = measure_mp3(stream)
    if samples > 0:
        stream.seek(position)
        return samples if decoded + 4 * MP3_FRAME < samples else decoded

    # Else the decoder should have come near the end of the file.
    is_near_end = size - position < 2**14
    if is_near_end:
        return decoded
    return decoded * size // position
