# pytest tests/recordings/test_ogg.py
"""nanos2t/recordings/ogg.py: damage within an Ogg, of which libsndfile says nothing."""

import io

import pytest
from helpers.sounds import RATE, encode, noise, refuse, silently

from nanos2t import audio
from nanos2t.recordings.ogg import check_pages

OGGS = [
    encode(noise(5 * RATE), RATE, "OGG", "VORBIS"),
    encode(noise(5 * RATE), RATE, "OGG", "OPUS"),
]
EACH_OGG = pytest.mark.parametrize("data", OGGS, ids=["vorbis", "opus"])


def find_pages(data: bytes) -> list[int]:
    """The first byte of each page, and the end."""
    return [at for at in range(len(data)) if data[at : at + 4] == b"OggS"] + [len(data)]


def write_over(data: bytes, start: int, content: bytes) -> bytes:
    return data[:start] + content + data[start + len(content) :]


@EACH_OGG
def test_one_wrong_bit_in_any_page_is_damage(data):
    pages = find_pages(data)
    for start, end in zip(pages, pages[1:]):
        for at in (start + 22, end - 1):
            damaged = write_over(data, at, bytes([data[at] ^ 16]))
            with pytest.raises(ValueError, match=f"damaged, .*wrong checksum at byte {start}"):
                check_pages(io.BytesIO(damaged), "a.ogg")


@EACH_OGG
def test_damage_that_shortens_what_the_file_announces_is_refused(data):
    """Without the last page the file seems to be a shorter one that is whole."""
    *_, last, end = find_pages(data)
    wrong_bit = bytes([data[end - 1] ^ 1])
    damaged = write_over(data, end - 1, wrong_bit)
    refuse(damaged, "audio bytes: damaged", f"checksum at byte {last}")
    with pytest.raises(ValueError, match="damaged, found a page with a wrong checksum"):
        audio.load_audio(damaged, RATE, 0.5, 1.0)


@EACH_OGG
def test_zeros_lost_bytes_and_lost_pages_are_damage(data):
    pages = find_pages(data)
    middle = pages[len(pages) // 2]
    following = pages[len(pages) // 2 + 1]
    refuse(write_over(data, middle + 100, bytes(200)), "audio bytes: damaged", "checksum")
    refuse(data[: middle + 100] + data[middle + 101 :], "audio bytes: damaged", "checksum")
    refuse(write_over(data, middle, bytes(200)), "audio bytes: damaged", f"bytes {middle} to")
    refuse(data[:middle] + data[following:], "audio bytes: damaged", "expected page", "found page")
    repeated = data[:following] + data[middle:]
    refuse(repeated, "audio bytes: damaged", "expected page", "found page")


@EACH_OGG
def test_damage_of_each_of_joined_files_is_found(data):
    joined = data + data
    assert len(silently(joined)) == 2 * len(silently(data))
    last = find_pages(data)[-2]
    for start in last, len(data) + last:
        damaged = write_over(joined, start + 22, bytes([joined[start + 22] ^ 1]))
        refuse(damaged, "audio bytes: damaged", f"byte {last}")
    refuse(write_over(joined, len(data), bytes(9)), "audio bytes: damaged", "that are no page")
    second = find_pages(data)[1]
    refuse(data + data[second:], "audio bytes: damaged", "found page 1")


def test_a_recording_of_a_live_stream_has_a_warning():
    """It has the headers, and the pages from some moment on, whose numbers go on."""
    data = OGGS[0]
    pages = find_pages(data)
    live = data[: pages[2]] + data[pages[4] :]
    with pytest.warns(UserWarning, match="audio bytes: expected page 2 .* the middle of a stream"):
        waveform = audio.load_audio(live, RATE)
    assert RATE < len(waveform) < 5 * RATE


@EACH_OGG
def test_tags_around_the_pages_and_a_cut_page_are_no_damage(data):
    for content in (data, data + b"TAG" + bytes(125), data + bytes(5000), data[:-1], b""):
        stream = io.BytesIO(content)
        stream.seek(7)
        check_pages(stream, "a.ogg")
        assert stream.tell() == 7
