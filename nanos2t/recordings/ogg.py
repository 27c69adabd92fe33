"""Ogg as bytes (RFC 3533): find pages that are damaged or missing.

libogg drops a page whose checksum is wrong, and libsndfile announces the samples of the others: all
seems well, but words are missing.
"""

import os
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from nanos2t.recordings.streams import find_pattern

PAGE_START = b"OggS\0"

# A page has a head of 27 bytes, the sizes of up to 255 segments, and the segments.
HEAD_BYTES = 27
MAX_SEGMENTS = 255

# Each byte with its bits in the opposite order.
MIRRORED_BYTES = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def check_pages(stream: BinaryIO, label: str) -> None:
    """Raise ValueError if a page of an Ogg is damaged or missing.

    Warns, beginning with `label`, if there may have been pages before the first sound. A last page
    that is cut short is passed over. The position of the stream does not change.
    """
    position = stream.tell()
    last_numbers: dict[int, int] = {}  # of each logical stream
    without_sound: set[int] = set()  # logical streams of which only headers came
    for start, page in read_pages(stream):
        serial = int.from_bytes(page[14:18], "little")
        number = int.from_bytes(page[18:22], "little")
        expected = last_numbers.get(serial, -1) + 1
        is_first = page[5] & 2 != 0
        if number != expected and not is_first:
            message = f"expected page {expected} at byte {start}, found page {number}"
            # Whoever records a live stream gets its headers, and the pages from there on.
            if serial not in without_sound:
                raise ValueError(f"damaged, {message}")
            message += ": a recording from the middle of a stream, or pages are missing"
            warnings.warn(f"{label}: {message}", stacklevel=2)

        # Headers have the position 0 of the sound.
        last_numbers[serial] = number
        without_sound.discard(serial)
        if not any(page[6:14]):
            without_sound.add(serial)
    stream.seek(position)


def read_pages(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of an Ogg, each with its first byte in the file.

    Raises ValueError if one is damaged. What follows the last page, or a part of a page, is not
    read: it may be a tag.
    """
    size = stream.seek(0, os.SEEK_END)
    start = next(find_pattern(stream, PAGE_START), size)
    while start < size:
        stream.seek(start)
        head = stream.read(HEAD_BYTES + MAX_SEGMENTS)
        length = measure_page(head)
        if not 0 < length <= size - start:
            following = next(find_pattern(stream, PAGE_START, start + 1), size)
            if following < size:
                raise ValueError(f"damaged, found bytes {start} to {following} that are no page")
            return

        stream.seek(start)
        page = stream.read(length)
        if compute_checksum(page) != int.from_bytes(page[22:26], "little"):
            raise ValueError(f"damaged, found a page with a wrong checksum at byte {start}")
        yield start, page
        start += length


def measure_page(head: bytes) -> int:
    """Return the bytes of the page that begins with these, the sizes of its segments included.

    0: they are no page.
    """
    if len(head) < HEAD_BYTES or not head.startswith(PAGE_START):
        return 0
    segments_end = HEAD_BYTES + head[26]
    return segments_end + sum(head[HEAD_BYTES:segments_end])


def compute_checksum(page: bytes) -> int:
    """Return the checksum of a page, computed as if it had 0 in its place.

    zlib has the same polynomial, but sees the bits of all numbers in the opposite order, and
    inverts its first and its last value.
    """
    content = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(content.translate(MIRRORED_BYTES), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(MIRRORED_BYTES), "big")
