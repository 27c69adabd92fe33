"""FLAC as bytes (RFC 9639): where a file begins and ends, and which frames its last bytes hold."""

import re

# The marker and the head of the block STREAMINFO, whose length is always 34.
FLAC_START = re.compile(rb"fLaC[\0\x80]\0\0\x22")
FLAC_HEAD_BYTES = 42  # the marker, and STREAMINFO with its head

# A frame with a fixed number of samples: 14 bits of a pattern, 0, 0 (fixed); the codes of the
# number of samples, of the sample rate, of the channels and of the bits of a sample; 0.
FRAME_START = re.compile(rb"\xff\xf8[\x10-\xfe][\0-\xae]", re.DOTALL)
MAX_FRAME_HEAD = 16

FLAC_TAIL_BYTES = 2**18  # at the end, in which some frames begin
ID3V1_BYTES = 128  # a tag of another format, which some programs add at the end


def count_tag_bytes(tail: bytes) -> int:
    """Return the bytes of the tag ID3v1 at the end of a file that ends with `tail`."""
    has_tag = len(tail) >= ID3V1_BYTES and tail[-ID3V1_BYTES:].startswith(b"TAG")
    return ID3V1_BYTES if has_tag else 0


def find_frames_after_end(head: bytes, tail: bytes) -> str:
    """Return what is not decoded of a FLAC with these first and last bytes; empty if all is.

    libFLAC stops after the samples that STREAMINFO announces. Two frames in a row that begin after
    them cannot be there by chance.
    """
    num_samples = int.from_bytes(head[21:26], "big") & 2**36 - 1
    frame_samples = int.from_bytes(head[8:10], "big")
    if num_samples == 0 or frame_samples == 0:
        return ""
    numbers = find_frame_numbers(tail)
    for number in numbers:
        if number + 1 in numbers and number * frame_samples >= num_samples:
            return (
                f"frames after the {num_samples} samples that its header announces are not decoded"
            )
    return ""


def find_frame_numbers(data: bytes) -> set[int]:
    """Return the numbers of the frames that begin in these bytes."""
    numbers = set()
    for match in FRAME_START.finditer(data):
        head = data[match.start() : match.start() + MAX_FRAME_HEAD]
        number, size = read_frame_number(head)
        if size > 0 and compute_crc8(head[:size]) == head[size]:
            numbers.add(number)
    return numbers


def read_frame_number(head: bytes) -> tuple[int, int]:
    """Return the number of the frame with this head, and where the checksum of the head is.

    The latter is 0 if these bytes are no head. The number is coded like a character in UTF-8; the
    number of samples and the sample rate follow it, unless they have a code.
    """
    if len(head) < MAX_FRAME_HEAD:
        return 0, 0
    num_leading_ones = 8 - (~head[4] & 0xFF).bit_length()
    number_end = 4 + max(1, num_leading_ones)
    try:
        character = head[4:number_end].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return 0, 0
    if len(character) != 1:
        return 0, 0

    samples_code = head[2] >> 4
    rate_code = head[2] & 15
    samples_bytes = {6: 1, 7: 2}.get(samples_code, 0)
    rate_bytes = {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    return ord(character), number_end + samples_bytes + rate_bytes


def compute_crc8(data: bytes) -> int:
    """Return the checksum of 8 bits with the polynomial x^8 + x^2 + x + 1."""
    checksum = 0
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum <<= 1
            if checksum & 0x100:
                checksum ^= 0x107
    return checksum
