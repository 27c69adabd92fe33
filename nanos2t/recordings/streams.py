"""Audio files that were joined to one: find where each begins.

`cat a.mp3 b.mp3 > c.mp3` makes a file that players play to its end, but libsndfile decodes the
first stream only. `find_streams` returns the bytes of each stream, and `StreamPart` makes one of
them look like a file of its own.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO

from nanos2t.recordings.flac import FLAC_START, ID3V1_BYTES, count_tag_bytes

SCAN_BYTES = 2**20  # read at a time
OVERLAP = 64  # bytes: longer than what is searched for and what is before it

MIN_MP3_BYTES = 2048  # between two tags of an MP3 there is sound only if it is longer than this

# A tag, whose length follows; or a frame that has the number of frames in place of sound: it is
# after the frame's head of 4 bytes and its side information, whose length depends on the channels.
MP3_START = (
    rb"ID3[\2-\4]\0.[\0-\x7f]{4}"
    rb"|\xff[\xe2-\xff](?=.{2}(?:.{9}|.{17}|.{32})(?:Xing|Info)\0\0\0[\0-\x0f])"
)


class StreamPart:
    """The bytes of a seekable stream from `start` to `end`, as a binary file."""

    def __init__(self, stream: BinaryIO, start: int, end: int):
        self.stream = stream
        self.start = start
        self.size = end - start
        self.position = 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self.position
        elif whence == os.SEEK_END:
            offset += self.size
        if offset < 0:
            raise ValueError(f"seek to {offset}, expected 0 or more")
        self.position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self.position)
        if size is None or size < 0 or size > left:
            size = left
        self.stream.seek(self.start + self.position)
        data = self.stream.read(size)
        self.position += len(data)
        return data


def find_streams(stream: BinaryIO) -> list[tuple[int, int]]:
    """Return the first byte of each stream in a seekable file, and the byte after its last one.

    A file of another format than MP3, Ogg, FLAC or WAV is one stream. The file is read once; its
    position does not change.
    """
    position = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    head = stream.read(4)
    starts = [0]
    if head == b"OggS":
        starts += find_ogg_starts(stream)
    elif head == b"fLaC":
        starts += find_pattern(stream, FLAC_START.pattern)
    elif head == b"RIFF":
        starts += find_wav_starts(stream, size)
    elif is_mp3(head):
        starts += find_mp3_starts(stream)

    starts = sorted(set(starts))
    ends = [end - measure_flac_tag(stream, end) for end in starts[1:] + [size]]
    stream.seek(position)
    return list(zip(starts, ends))


def measure_flac_tag(stream: BinaryIO, end: int) -> int:
    """Return the bytes of the tag ID3v1 before `end` in a FLAC: libFLAC takes it for damage."""
    stream.seek(0)
    if not FLAC_START.match(stream.read(OVERLAP)):
        return 0
    stream.seek(max(0, end - ID3V1_BYTES))
    return count_tag_bytes(stream.read(min(end, ID3V1_BYTES)))


def is_mp3(head: bytes) -> bool:
    """Check whether a file that begins with these bytes may be an MP3: a tag, or a frame."""
    return re.match(rb"ID3|\xff[\xe0-\xff]", head) is not None


def find_pattern(stream: BinaryIO, pattern: bytes, start: int = 0) -> Iterator[int]:
    """Yield the position of each match of a regular expression, shorter than OVERLAP, in a file.

    start: the byte where the search begins.
    """
    offset = start
    while True:
        stream.seek(offset)
        data = stream.read(SCAN_BYTES)
        is_last = len(data) < SCAN_BYTES
        limit = len(data) if is_last else len(data) - OVERLAP
        for match in re.finditer(pattern, data, re.DOTALL):
            if match.start() < limit:
                yield offset + match.start()
        if is_last:
            return
        offset += limit


def find_ogg_starts(stream: BinaryIO) -> list[int]:
    """Return where a first page is that does not follow another first page.

    The streams of a file with several, such as sound and pictures, have their first pages together.
    """
    starts = []
    previous_end = 0
    for position in list(find_pattern(stream, rb"OggS\0[\2\3\6\7]")):
        if position != previous_end:
            starts.append(position)
        stream.seek(position)
        page = stream.read(27 + 255)
        if len(page) >= 27:
            num_segments = page[26]
            previous_end = position + 27 + num_segments + sum(page[27 : 27 + num_segments])
    return starts


def find_wav_starts(stream: BinaryIO, size: int) -> list[int]:
    """Return where a WAV begins after the end of the one before it."""
    starts = []
    position = 0
    while position + 12 <= size:
        stream.seek(position)
        head = stream.read(12)
        if not re.fullmatch(rb"RIFF....WAVE", head, re.DOTALL):
            break
        starts.append(position)
        length = int.from_bytes(head[4:8], "little")
        position += 8 + length + length % 2
    return starts


def find_mp3_starts(stream: BinaryIO) -> list[int]:
    """Return where a tag ID3 or a frame with the length of a stream begins, after some sound."""
    starts = []
    sound_start = 0
    for position in list(find_pattern(stream, MP3_START)):
        tag_end = position
        stream.seek(position)
        head = stream.read(10)
        if head.startswith(b"ID3"):
            # The length of the tag is a number of four digits of 7 bits; a frame follows.
            tag_end += 10
            for place, digit in enumerate(reversed(head[6:10])):
                tag_end += digit << (7 * place)
            stream.seek(tag_end)
            if not is_mp3(stream.read(4)):
                continue

        if position > sound_start + MIN_MP3_BYTES:
            starts.append(position)
        sound_start = max(sound_start, tag_end)
    return starts
