# pytest tests/recordings/test_pipes.py
"""nanos2t/recordings/pipes.py: WAVs through a pipe, as fast as somebody writes them."""

import io
import os
import threading
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.sounds import LOSSLESS, RATE, Trickle, sine

from nanos2t import audio
from nanos2t.recordings.pipes import Pipe, PipedStream, PipedWav, open_pipe


def wav(sound: np.ndarray, rate: int = RATE, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    data = io.BytesIO()
    soundfile.write(data, sound, rate, subtype=subtype, format=format)
    return data.getvalue()


def load(source: object, **part) -> tuple[np.ndarray, list[str]]:
    """The waveform of a source and the warnings about it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waveform = audio.load_audio(source, RATE, **part)
    return waveform, [str(warning.message).partition(": ")[2] for warning in caught]


def assert_same(data: bytes, **part) -> tuple[np.ndarray, list[str]]:
    """A pipe gives what a file gives, whatever comes at a time."""
    expected = load(io.BytesIO(data), **part)
    for step in 1000, 10**9:
        waveform, messages = load(Trickle(data, step), **part)
        np.testing.assert_array_equal(waveform, expected[0])
        assert messages == expected[1]
    return expected


@pytest.mark.parametrize(("format", "subtype", "rate", "channels", "_"), LOSSLESS)
def test_a_pipe_gives_what_a_file_gives(format, subtype, rate, channels, _):
    sound = np.stack([sine(rate, 1.5, 300 + 50 * i) for i in range(channels)], axis=1)
    data = wav(sound, rate, subtype, format)
    waveform, messages = assert_same(data)
    assert len(waveform) == pytest.approx(1.5 * RATE, abs=300) and messages == []
    is_piped = isinstance(open_pipe(Trickle(data)), PipedStream)
    assert is_piped == (format in ("WAV", "WAVEX", "FLAC"))


@pytest.mark.parametrize("subtype", ["ALAW", "ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
def test_compressed_wavs(subtype):
    data = wav(sine(8000, 1.0), 8000, subtype)
    assert_same(data)
    assert isinstance(open_pipe(Trickle(data)), PipedWav) == (subtype in ("ALAW", "ULAW"))


@pytest.mark.parametrize("length", [0, 2**32 - 1, 2**31 - 1, 2**31 - 37, 2**32 - 100])
def test_a_length_that_the_writer_did_not_know(length):
    whole = wav(sine(RATE, 2.0))
    data = bytearray(whole)
    place = data.index(b"data") + 4
    data[place : place + 4] = length.to_bytes(4, "little")
    data[4:8] = length.to_bytes(4, "little")
    waveform, messages = load(Trickle(bytes(data)))
    np.testing.assert_array_equal(waveform, load(whole)[0])
    assert messages == []


def test_chunks_around_the_samples():
    data = wav(sine(RATE, 1.0))
    before = data.index(b"data")
    chunk = b"LIST" + (5).to_bytes(4, "little") + b"INFOx\0"
    with_chunks = data[:before] + chunk + data[before:] + chunk + b"id3 " + bytes(4)
    size = (len(with_chunks) - 8).to_bytes(4, "little")
    waveform, messages = load(Trickle(with_chunks[:4] + size + with_chunks[8:]))
    np.testing.assert_array_equal(waveform, load(data)[0])
    assert messages == []


def test_joined_files():
    parts = [wav(sine(rate, 0.5), rate) for rate in (RATE, 8000, 22_050)]
    waveform, messages = assert_same(b"".join(parts))
    assert len(waveform) == pytest.approx(1.5 * RATE, abs=500) and messages == []
    many, _ = load(Trickle(parts[0] * 1500, 10**9))
    assert len(many) == 1500 * len(load(parts[0])[0])


@pytest.mark.parametrize("cut", [1, 2, 1001, 30_000])
def test_a_cut_file_has_a_warning(cut):
    _, messages = assert_same(wav(sine(RATE, 1.0))[:-cut])
    assert len(messages) == 1 and "cut short or damaged, found" in messages[0]


def test_what_follows_the_samples_has_a_warning():
    data = wav(sine(RATE, 1.0))
    _, messages = assert_same(data + b"\x91" * 5000)
    assert messages == ["5000 bytes after the samples that its header announces are not decoded"]
    for padding in b"\0" * 5000, b"\x91" * 100, b"LIST" + bytes(4):
        assert load(Trickle(data + padding))[1] == []
    _, messages = load(Trickle(data + b"RIFF" + b"\x91" * 5000))
    assert messages == ["5004 bytes after the samples that its header announces are not decoded"]


@pytest.mark.parametrize("part", [{"start": 0.5}, {"end": 0.75}, {"start": 0.25, "end": 1.5}])
def test_a_part_of_a_pipe(part):
    assert_same(wav(sine(RATE, 2.0)), **part)
    with pytest.raises(ValueError, match="expected a recording that contains the part"):
        load(Trickle(wav(sine(RATE, 2.0))), start=1.0, end=2.5)


@pytest.mark.parametrize(
    "data", [b"", b"R", b"RIFF", wav(sine(RATE))[:30], wav(sine(RATE))[:44], b"x" * 100, b"fLaC"]
)
def test_what_is_no_audio_is_refused_as_a_file_is(data):
    messages = []
    for source in Trickle(data), io.BytesIO(data):
        with pytest.raises(ValueError, match="^audio stream: ") as refused:
            load(source)
        messages.append(str(refused.value))
    assert messages[0] == messages[1]


def test_blocks_come_before_the_pipe_ends_and_memory_does_not_grow():
    sound = wav(sine(RATE, 60.0)) * 10
    pipe = Trickle(sound)
    blocks = audio.read_blocks(pipe, RATE)
    next(blocks)
    assert pipe.given < len(sound) / 10
    tracemalloc.start()
    assert sum(map(len, blocks)) > 500 * RATE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6


def test_a_fifo_on_disk(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    data = wav(sine(RATE, 20.0))
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(data,))
    writer.start()
    np.testing.assert_array_equal(audio.load_audio(tmp_path / "fifo", RATE), load(data)[0])
    writer.join()


def test_bytes_are_put_back():
    pipe = Pipe(Trickle(b"abcdefgh", 3))
    assert pipe.read(5) == b"abcde"
    pipe.put_back(b"de")
    assert (pipe.read(3), pipe.skip(9), pipe.read(1)) == (b"def", 2, b"")
    pipe.put_back(b"x")
    assert pipe.read_all() == b"x"
