"""Ends of audio files that the container does not show to be wrong.

`find_doubt` describes what speaks for sound that is missing, or that is not decoded, in a file
whose header does not say so: an Ogg without its last page, an MP3 that ends within a frame, a WAV
or FLAC with more after its samples than its header announces.
"""

import os
import re
from typing import BinaryIO

from nanos2t.recordings.flac import FLAC_HEAD_BYTES, FLAC_TAIL_BYTES, find_frames_after_end

# kbit/s of a frame by the index in its head, layer III: MPEG 1, and MPEG 2 and 2.5.
BIT_RATES = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
LOW_BIT_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
SAMPLE_RATES = (44_100, 48_000, 32_000)

MIN_REST_BYTES = 256  # fewer after the samples of a WAV are padding
PIPE_LENGTH = 2**31 - 2**16  # bytes: programs that write to a pipe announce more than this


def find_doubt(stream: BinaryIO, format_name: str) -> str:
    """Return why a file of libsndfile's format may lack sound or have more; empty if all is well.

    The position of the stream does not change.
    """
    position = stream.tell()
    doubt = ""
    if format_name == "OGG" and not ends_with_last_page(stream):
        doubt = "its last page does not say that it is the last: the file may be cut short"
    elif format_name == "MP3":
        _, missing = measure_mp3(stream)
        if missing > 0:
            doubt = f"ends {missing} bytes before its last frame does: the file is cut short"
    elif format_name == "FLAC":
        doubt = find_frames_after_end(*read_both_ends(stream))
    elif format_name in ("WAV", "WAVEX"):
        rest = count_rest_of_wav(stream)
        if rest > 0:
            doubt = f"{rest} bytes after the samples that its header announces are not decoded"
    stream.seek(position)
    return doubt


def read_both_ends(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Return the first bytes of a FLAC, and the last ones with some of its frames."""
    stream.seek(0)
    head = stream.read(FLAC_HEAD_BYTES)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - FLAC_TAIL_BYTES))
    return head, stream.read()


def ends_with_last_page(stream: BinaryIO) -> bool:
    """Check whether the last page of an Ogg has the flag of a stream's end (RFC 3533)."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 2**16))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > 5 and page[5] & 4 != 0


def ends_with_whole_page(stream: BinaryIO) -> bool:
    """Check whether the last page of an Ogg file is complete.

    A page has 26 bytes, the number of its segments, the size of each, and the segments (RFC 3533).
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 2**16))  # a page has less than 64 KiB
    tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27:
        return False
    segments = page[26]
    header_size = 27 + segments
    return len(page) >= header_size + sum(page[27:header_size])


def count_rest_of_wav(stream: BinaryIO) -> int:
    """Return the bytes after the samples of a WAV that are neither a chunk nor zeros."""
    size = stream.seek(0, os.SEEK_END)
    position = 12
    name = b""
    while name != b"data":
        # Go from chunk to chunk.
        stream.seek(position)
        head = stream.read(8)
        length = int.from_bytes(head[4:8], "little")
        if len(head) < 8 or not 0 < length < PIPE_LENGTH:
            return 0
        name = head[:4]
        position += 8 + length + length % 2

    # A chunk has a name, and ends before the file does.
    rest = size - position
    stream.seek(position)
    head = stream.read(MIN_REST_BYTES)
    has_name = re.match(rb"[\w ]{4}", head) is not None
    is_chunk = has_name and int.from_bytes(head[4:8], "little") <= rest

    # A few bytes, or zeros, are padding.
    if is_chunk or len(head) < MIN_REST_BYTES or not any(head):
        return 0
    return rest


def measure_mp3(stream: BinaryIO) -> tuple[int, int]:
    """Return the samples of the frames of an MP3, and the bytes that its last frame lacks.

    The first is 0 if there is something else than tags between its frames, or if it is not MPEG
    audio layer III with known bit rates (ISO 11172-3).
    """
    size = stream.seek(0, os.SEEK_END)
    position = skip_tags(stream)
    num_samples = 0
    while position + 4 <= size:
        stream.seek(position)
        length, samples = parse_frame_head(stream.read(4))
        if length == 0:
            # Tags may follow the last frame.
            stream.seek(position)
            if re.match(rb"TAG|APE|ID3|LYR", stream.read(4)) is None:
                return 0, 0
            return num_samples, 0
        position += length
        num_samples += samples
    return num_samples, max(0, position - size)


def skip_tags(stream: BinaryIO) -> int:
    """Return where the first frame begins, after tags ID3."""
    position = 0
    while True:
        stream.seek(position)
        head = stream.read(10)
        if len(head) < 10 or not head.startswith(b"ID3"):
            return position

        # The length has four digits of 7 bits.
        length = 0
        for digit in head[6:10]:
            length = 128 * length + digit
        position += 10 + length


def parse_frame_head(head: bytes) -> tuple[int, int]:
    """Return the bytes and the samples of the frame with this head of 4 bytes; 0 if it is none."""
    bits = int.from_bytes(head, "big")
    version = bits >> 19 & 3  # 3: MPEG 1, 2: MPEG 2, 0: MPEG 2.5
    rate_index = bits >> 12 & 15
    sample_rate_index = bits >> 10 & 3
    is_layer_3 = bits >> 21 == 0x7FF and bits >> 17 & 3 == 1 and version != 1
    if not is_layer_3 or rate_index in (0, 15) or sample_rate_index == 3:
        return 0, 0

    padding = bits >> 9 & 1
    sample_rate = SAMPLE_RATES[sample_rate_index]
    if version == 3:
        return 144_000 * BIT_RATES[rate_index] // sample_rate + padding, 1152
    sample_rate //= 2
    if version == 0:
        sample_rate //= 2
    return 72_000 * LOW_BIT_RATES[rate_index] // sample_rate + padding, 576
