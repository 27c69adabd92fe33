"""Audio that comes through a pipe: a WAV or FLAC is decoded as it comes, in little memory.

A pipe can be read once, from the beginning to the end, but libsndfile asks for the end of a file
before it decodes it. The header of a WAV says where that is, so `PipedWav` shows libsndfile a file
of that length. A FLAC is decoded frame by frame, so `PipedFlac` shows a file that is longer than
any. Of an MP3 libsndfile reads the whole, of an Ogg the last page, before it gives a sample: these
formats, and all others, are read to the end of the pipe first.
"""

import io
import os
import re
import warnings
from typing import BinaryIO

from nanos2t.recordings.flac import (
    FLAC_HEAD_BYTES,
    FLAC_START,
    FLAC_TAIL_BYTES,
    ID3V1_BYTES,
    count_tag_bytes,
    find_frames_after_end,
)
from nanos2t.recordings.streams import OVERLAP

MAX_HEAD = 2**20  # bytes before the samples: a WAV with more is read whole
MAX_LOOK = 1024
SKIP_BYTES = 2**16  # read at a time to be discarded

# The codes of formats whose samples have the same size: PCM, float, A-law and mu-law, and the one
# that names its format in an extension.
PLAIN_FORMATS = (1, 3, 6, 7, 0xFFFE)

# Programs that write to a pipe do not know the length. They announce 0, or just under 2**31 or
# 2**32 bytes.
MAX_LENGTH = 2**32 - 1
LENGTH_MARGIN = 2**16

MIN_REST_BYTES = 256  # fewer after the samples are padding

FLAC_READ_BYTES = 2**13  # at a time: half a second of a compressed recording
MAX_FLAC_LENGTH = 2**50


class Pipe:
    """A stream that cannot seek, with a place for bytes that were read too early."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        self.returned = b""

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end."""
        data = self.returned[:count]
        self.returned = self.returned[count:]
        while len(data) < count:
            # A pipe gives what it has.
            more = self.stream.read(count - len(data))
            if not more:
                break
            data += more
        return data

    def read_all(self) -> bytes:
        return self.returned + (self.stream.read() or b"")

    def put_back(self, data: bytes) -> None:
        self.returned = data + self.returned

    def skip(self, count: int) -> int:
        """Discard the next `count` bytes, and return how many there were."""
        num_skipped = 0
        while num_skipped < count:
            data = self.read(min(SKIP_BYTES, count - num_skipped))
            if not data:
                break
            num_skipped += len(data)
        return num_skipped


class PipedStream:
    """What comes next in a pipe as a binary file of `size` bytes, a class to derive from."""

    def __init__(self, pipe: Pipe, size: int):
        self.pipe = pipe
        self.size = size
        self.position = 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset += self.size
        elif whence == os.SEEK_CUR:
            offset += self.position
        self.position = max(0, offset)
        return self.position


class PipedWav(PipedStream):
    """The WAV that comes next in a pipe as a binary file, which ends after its samples.

    head: what was read of it, to the first sample or further. It can be read again, and so can the
    first MAX_LOOK bytes after it, all that follows once only.
    """

    def __init__(self, pipe: Pipe, head: bytes, size: int, knows_length: bool):
        super().__init__(pipe, size)
        self.head = head
        self.samples_start = len(head)
        self.knows_length = knows_length
        self.num_read = len(head)

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self.position)
        count = left if count < 0 else min(count, left)
        data = self.head[self.position : self.position + count]
        if self.position + len(data) == self.num_read:
            more = self.pipe.read(count - len(data))
            # libsndfile has a look at the first samples, and goes back once.
            is_beginning = self.num_read == len(self.head) < self.samples_start + MAX_LOOK
            if is_beginning:
                self.head += more
            data += more
            self.num_read += len(more)
        self.position += len(data)
        return data

    def check_decoded(self, decoded: int, announced: int, label: str) -> None:
        """Warn if fewer samples were decoded than the header announces."""
        if self.knows_length and decoded < announced:
            message = f"cut short or damaged, found {decoded} of {announced} samples"
            warnings.warn(f"{label}: {message}", stacklevel=2)

    def find_next(self, label: str) -> "PipedWav | None":
        """Return the WAV that follows this one in the pipe, if one does.

        Chunks without sound are skipped. Warns about anything else.
        """
        self.pipe.skip(self.size + self.size % 2 - self.num_read)
        while True:
            head = self.pipe.read(8)
            if head.startswith(b"RIFF"):
                self.pipe.put_back(head)
                following = open_pipe(self.pipe)
                if isinstance(following, PipedWav):
                    return following
                rest = following.read()
                break

            # A chunk has a name, and ends before the file does.
            length = int.from_bytes(head[4:], "little")
            is_chunk = len(head) == 8 and re.match(rb"[\w ]{4}", head) is not None
            if not is_chunk:
                rest = head + self.pipe.read(MIN_REST_BYTES)
                break
            num_skipped = self.pipe.skip(length + length % 2)
            if num_skipped < length:
                rest = head + bytes(num_skipped)
                break

        num_bytes = len(rest) + self.pipe.skip(MAX_LENGTH)
        if num_bytes >= MIN_REST_BYTES and any(rest):
            message = f"{num_bytes} bytes after the samples that its header announces"
            warnings.warn(f"{label}: {message} are not decoded", stacklevel=2)
        return None


class PipedFlac(PipedStream):
    """The FLAC that comes next in a pipe as a binary file, which ends where another one begins.

    The last FLAC_TAIL_BYTES can be read again, as libFLAC does with some frames. A tag ID3v1 at
    its end is left out.
    """

    def __init__(self, pipe: Pipe):
        super().__init__(pipe, MAX_FLAC_LENGTH)
        self.window = b""
        self.window_end = 0
        self.head = b""
        self.has_ended = False

    def read(self, count: int = -1) -> bytes:
        count = MAX_FLAC_LENGTH if count < 0 else count
        while self.window_end < self.position + count and not self.has_ended:
            self.move_window()
        begin = self.position - (self.window_end - len(self.window))
        if begin < 0:
            # libFLAC takes the end of the file for damage.
            return b""
        data = self.window[begin : begin + count]
        self.position += len(data)
        return data

    def move_window(self) -> None:
        """Read the next bytes, up to where this FLAC ends."""
        wanted = FLAC_READ_BYTES + ID3V1_BYTES + OVERLAP
        data = self.pipe.read(wanted)
        end = FLAC_READ_BYTES
        is_first = self.window_end == 0
        following = FLAC_START.search(data, int(is_first))
        if following is None and len(data) < wanted:
            end = len(data)
            self.has_ended = True
        elif following is not None and following.start() <= FLAC_READ_BYTES + ID3V1_BYTES:
            end = following.start()
            self.has_ended = True

        self.pipe.put_back(data[end:])
        if self.has_ended:
            end -= count_tag_bytes(data[:end])
        if is_first:
            self.head = data[:FLAC_HEAD_BYTES]
        self.window = (self.window + data[:end])[-FLAC_TAIL_BYTES:]
        self.window_end += end

    def find_next(self, label: str) -> "PipedFlac | None":
        """Return the FLAC that follows this one in the pipe, if one does.

        Warns about frames after the samples that the header of this one announces.
        """
        while not self.has_ended:
            self.move_window()
        doubt = find_frames_after_end(self.head, self.window)
        if doubt:
            warnings.warn(f"{label}: {doubt}", stacklevel=2)
        following = self.pipe.read(1)
        self.pipe.put_back(following)
        return PipedFlac(self.pipe) if following else None


def open_pipe(stream: BinaryIO | Pipe) -> PipedStream | io.BytesIO:
    """Return what comes through a pipe as a file: one that is still to come, or all of it."""
    pipe = stream if isinstance(stream, Pipe) else Pipe(stream)
    head = pipe.read(12)
    if FLAC_START.match(head):
        pipe.put_back(head)
        return PipedFlac(pipe)

    format_code = None
    is_wav = re.fullmatch(rb"RIFF....WAVE", head, re.DOTALL) is not None
    while is_wav and len(head) < MAX_HEAD:
        # Go from chunk to chunk.
        chunk_head = pipe.read(8)
        head += chunk_head
        name = chunk_head[:4]
        length = int.from_bytes(chunk_head[4:], "little")
        if name == b"data" and format_code in PLAIN_FORMATS:
            return open_samples(pipe, head, length)
        if name in (b"data", b"") or length > MAX_HEAD:
            break
        content = pipe.read(length + length % 2)
        head += content
        if name == b"fmt ":
            format_code = int.from_bytes(content[:2], "little")
    return io.BytesIO(head + pipe.read_all())


def open_samples(pipe: Pipe, head: bytes, length: int) -> PipedWav | io.BytesIO:
    """Return the WAV whose samples, of `length` bytes as its head announces, come next."""
    if 0 < length % 2**31 < 2**31 - LENGTH_MARGIN:
        return PipedWav(pipe, head, len(head) + length, knows_length=True)

    # If the name of a further chunk follows, the data chunk is really empty.
    following = pipe.read(4)
    pipe.put_back(following)
    if length == 0 and (len(following) < 4 or re.match(rb"[\w ]{4}", following)):
        return io.BytesIO(head + pipe.read_all())

    # The samples go on as long as the pipe does.
    head = head[:-4] + MAX_LENGTH.to_bytes(4, "little")
    return PipedWav(pipe, head, len(head) + MAX_LENGTH, knows_length=False)
