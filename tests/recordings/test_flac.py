# pytest tests/recordings/test_flac.py
"""nanos2t/recordings/flac.py: tags, frames that a header does not announce, and FLACs in pipes."""

import io
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile
from helpers.sounds import RATE, Trickle

from nanos2t import audio
from nanos2t.recordings.flac import compute_crc8, find_frame_numbers
from nanos2t.recordings.pipes import FLAC_READ_BYTES, Pipe, PipedFlac

TAG = b"TAG" + bytes(125)


def tone(rate: int, seconds: float) -> np.ndarray:
    return 0.5 * np.sin(np.arange(round(rate * seconds)) * 2000 / rate)


def flac(sound: np.ndarray, rate: int = RATE, announced: int | None = None) -> bytes:
    """A FLAC whose header announces so many samples; 0 means that it does not say."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="FLAC")
    data = bytearray(file.getvalue())
    if announced is not None:
        data[21] &= 0xF0
        data[22:26] = announced.to_bytes(4, "big")
    return bytes(data)


def load(source: object) -> tuple[np.ndarray, list[str]]:
    """The waveform of a source and what is said about it, as warnings or as an error."""
    waveform = np.zeros(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            waveform = audio.load_audio(source, RATE)
        except ValueError as error:
            return waveform, [str(error)]
    return waveform, [str(warning.message) for warning in caught]


def assert_same(data: bytes) -> tuple[np.ndarray, list[str]]:
    """A pipe gives what a file gives, whatever comes at a time."""
    expected = load(io.BytesIO(data))
    for step in 1000, 8192, 10**9:
        waveform, messages = load(Trickle(data, step))
        np.testing.assert_array_equal(waveform, expected[0])
        assert messages == expected[1]
    return expected


@pytest.mark.parametrize("seconds", [0.01, 0.7, 8.0])
@pytest.mark.parametrize("announced", [None, 0])
@pytest.mark.parametrize("after", [b"", TAG])
def test_a_whole_file(seconds, announced, after):
    sound = tone(RATE, seconds)
    waveform, messages = assert_same(flac(sound, announced=announced) + after)
    assert messages == []
    np.testing.assert_allclose(waveform, sound, atol=2**-15)


@pytest.mark.parametrize("after", [b"", TAG])
def test_joined_files(after):
    parts = [flac(tone(rate, 2.0), rate) + after for rate in (RATE, 8000, 22_050)]
    waveform, messages = assert_same(b"".join(parts))
    assert len(waveform) == pytest.approx(6 * RATE, abs=500) and messages == []
    many, _ = load(Trickle(flac(tone(RATE, 0.1)) * 300, 10**9))
    assert len(many) == pytest.approx(30 * RATE, abs=300)


def test_joins_at_every_place_of_what_is_read_at_a_time():
    """Also where the next file begins at an edge."""
    rng = np.random.default_rng(0)
    for size in range(7000, 8600, 97):
        first = flac(rng.uniform(-0.9, 0.9, size // 2))
        waveform, messages = assert_same(first + TAG + flac(tone(RATE, 0.3)))
        assert len(waveform) == size // 2 + round(0.3 * RATE) and messages == []


@pytest.mark.parametrize("after", [b"", TAG])
def test_the_end_is_found_at_every_place(after):
    start = b"fLaC\0\0\0\x22"
    for size in range(FLAC_READ_BYTES - 200, FLAC_READ_BYTES + 200):
        first = start + bytes(size)
        stream = PipedFlac(Pipe(Trickle(first + after + start + b"x", 10**9)))
        assert stream.read() == first
        assert stream.find_next("").read() == start + b"x"


@pytest.mark.parametrize("announced", [100, RATE, 3 * RATE - 4096 * 3])
def test_frames_that_the_header_does_not_announce_have_a_warning(announced):
    data = flac(tone(RATE, 3.0), announced=announced)
    warning = (
        f"audio stream: frames after the {announced} samples that its header announces are not "
        "decoded"
    )
    waveform, messages = assert_same(data)
    assert len(waveform) == announced and messages == [warning]
    waveform, messages = assert_same(data + TAG + flac(tone(RATE, 1.0)))
    assert len(waveform) == announced + RATE and messages == [warning]


def test_a_file_that_lacks_samples_is_refused():
    _, messages = assert_same(flac(tone(RATE, 3.0), announced=50_000))
    assert messages == ["audio stream: cut short or damaged, found 48000 of 50000 samples"]


@pytest.mark.parametrize("kept", [10, 50, 0.1, 0.5, 0.9, -2000, -100, -1])
def test_a_file_that_was_cut_is_refused(kept):
    """In a pipe too, but libFLAC may find another reason there."""
    data = flac(tone(RATE, 3.0))
    if isinstance(kept, float):
        kept = round(kept * len(data))
    for source in io.BytesIO(data[:kept]), Trickle(data[:kept]):
        waveform, messages = load(source)
        assert len(waveform) == 0 and len(messages) == 1
        assert messages[0].startswith("audio stream: ") and "damaged" in messages[0]


def test_something_else_after_a_file_is_refused():
    _, messages = assert_same(flac(tone(RATE, 3.0)) + b"\x91" * 5000)
    assert len(messages) == 1 and "damaged or not audio" in messages[0]


def test_blocks_come_before_the_pipe_ends_and_memory_does_not_grow():
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * RATE)
    data = flac(sound) * 10
    pipe = Trickle(data)
    blocks = audio.read_blocks(pipe, RATE)
    next(blocks)
    assert pipe.given < len(data) / 10
    tracemalloc.start()
    assert sum(map(len, blocks)) > 500 * RATE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


def test_frames_have_their_numbers():
    """As libFLAC writes them: from 0 on, each of 4,096 samples."""
    data = flac(np.random.default_rng(0).uniform(-0.5, 0.5, 4096 * 200 + 10))
    assert find_frame_numbers(data) == set(range(201))


def test_checksum():
    """The check value of CRC-8/SMBUS."""
    assert compute_crc8(b"123456789") == 0xF4
