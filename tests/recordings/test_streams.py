# pytest tests/recordings/test_streams.py
"""nanos2t/recordings/streams.py: several files that were joined to one."""

import io
import os
import struct

import numpy as np
import pytest
from helpers.sounds import RATE, encode, every_source, noise, refuse, silently

from nanos2t import audio
from nanos2t.recordings import decoding
from nanos2t.recordings.streams import StreamPart, find_streams

KINDS = [
    ("MP3", "MPEG_LAYER_III"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("FLAC", "PCM_16"),
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
]
TAG = b"ID3\3\0\0\0\0\x07\x76" + bytes(1014)


def without_length(data: bytes) -> bytes:
    """An MP3 without its first frame, which has the length."""
    return data[data.index(data[:2], 4) :]


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_all_joined_files_are_decoded(tmp_path, capfd, kind, subtype):
    files = [encode(noise(s * RATE, s), RATE, kind, subtype) for s in (5, 3, 1, 4)]
    expected = np.concatenate([silently(data) for data in files])
    for source in every_source(b"".join(files), tmp_path / "joined"):
        np.testing.assert_array_equal(silently(source), expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_joined_files_of_different_rates_and_channels(kind, subtype):
    rates = [24_000, 48_000] if subtype == "OPUS" else [22_050, 48_000]
    stereo = np.stack([noise(96_000), noise(96_000, 1)], axis=1)
    files = [encode(noise(3 * rates[0]), rates[0], kind, subtype)]
    files.append(encode(stereo, rates[1], kind, subtype))
    expected = np.concatenate([silently(data) for data in files])
    np.testing.assert_array_equal(silently(b"".join(files)), expected)


def test_joined_mp3_files_with_tags_and_without_lengths(capfd):
    """As encoders leave them: tags before and after, of both versions, and no length."""
    constant = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    first = encode(noise(5 * RATE), RATE, "MP3", "MPEG_LAYER_III", **constant)
    second = encode(noise(3 * RATE, 1), RATE, "MP3", "MPEG_LAYER_III", **constant)
    picture = b"ID3\4\0\0\0\2\0\0" + noise(32_768 // 8).tobytes()
    end = b"TAG" + bytes(125)
    for joined in (
        TAG + first + end + TAG + second + end,
        first + picture + second,
        picture + first + end + second,
        TAG + TAG + first + TAG + TAG + second,
        without_length(first) + second,
        first + TAG + without_length(second),
        without_length(first) + without_length(second),
    ):
        waveform = silently(joined)
        assert len(waveform) / RATE == pytest.approx(8.0, abs=0.2)
        tail = waveform[-RATE:]
        assert np.sqrt(np.mean(tail**2)) == pytest.approx(0.1, rel=0.15)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_a_part_of_joined_files(kind, subtype):
    files = [encode(noise(s * RATE, s), RATE, kind, subtype) for s in (5, 3, 4)]
    joined = b"".join(files)
    whole = silently(joined)
    for start, end in (1.0, 2.0), (4.5, 8.5), (6.0, 7.0), (9.0, 12.0), (11.0, 12.04):
        part = audio.load_audio(joined, RATE, start, end)
        np.testing.assert_allclose(part, whole[round(start * RATE) : round(end * RATE)], atol=0.02)
    np.testing.assert_array_equal(audio.load_audio(joined, RATE, 9.0), whole[9 * RATE :])
    for start, end in (11.0, 13.0), (12.5, None), (12.5, 13.0):
        with pytest.raises(ValueError, match="audio bytes: 12 s long, expected a recording that"):
            audio.load_audio(joined, RATE, start, end)
    with decoding.open_audio(joined) as file:
        assert decoding.measure_seconds(file) == pytest.approx(12.0, abs=0.2)


@pytest.mark.parametrize(("kind", "subtype"), KINDS[:4])
def test_damage_of_a_later_stream_is_found(kind, subtype):
    first = encode(noise(5 * RATE), RATE, kind, subtype)
    second = encode(noise(5 * RATE, 1), RATE, kind, subtype)
    refuse(first + second[: len(second) // 2], "audio bytes")


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_one_file_is_one_stream(kind, subtype):
    data = encode(noise(10 * RATE), RATE, kind, subtype)
    assert find_streams(io.BytesIO(data)) == [(0, len(data))]
    for name in b"ID3\3\0\0\0\0\0\0", b"fLaC....", b"OggS\0\0", b"Xing\0\0\0\7":
        damaged = data[:9001] + name + data[9001:]
        assert find_streams(io.BytesIO(damaged)) == [(0, len(damaged))]


@pytest.mark.parametrize("shift", [-70, -40, -20, -8, -3, -1, 0, 1])
def test_a_stream_that_begins_where_a_block_of_the_search_ends(shift):
    second = encode(noise(RATE), RATE, "FLAC")
    first = encode(noise(RATE), RATE, "FLAC")
    start = 2**20 + shift
    joined = first + b"\1" * (start - len(first)) + second
    assert find_streams(io.BytesIO(joined)) == [(0, start), (start, len(joined))]


def test_a_part_of_a_stream_is_read_like_a_file():
    part = StreamPart(io.BytesIO(bytes(range(100))), 10, 20)
    assert part.read() == bytes(range(10, 20)) and part.read() == b"" and part.tell() == 10
    assert part.seek(-3, 2) == 7 and part.read(2) == b"\x11\x12" and part.read(9) == b"\x13"
    assert part.seek(-4, 1) == 6 and part.seek(15) == 15 and part.read(1) == b""
    with pytest.raises(ValueError, match="seek to -1"):
        part.seek(-1)


def test_notes_of_the_mp3_decoder_do_not_reach_the_terminal(tmp_path, capfd):
    data = encode(noise(5 * RATE), RATE, "MP3", "MPEG_LAYER_III")
    junk = data[:3000] + b"hello" * 200 + data[3000:]
    lengths = bytearray(data)
    place = data.index(b"Xing" if b"Xing" in data else b"Info") + 12
    lengths[place : place + 4] = struct.pack(">I", 12_345)
    for source in (junk, bytes(lengths), data + bytes(5000)):
        for each in every_source(source, tmp_path / "a.mp3"):
            audio.load_audio(each, RATE)
            audio.load_audio(each, RATE, start=1.0, end=2.0)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"still there\n")
    assert capfd.readouterr().err == "still there\n"
