# pytest tests/transcription/test_long_audio.py
"""Recordings of several chunks: texts, times, progress, and silence."""

from pathlib import Path

import numpy as np
import pytest
from helpers.sounds import Trickle
from helpers.tiny import (
    RATE,
    SOUNDS,
    write,
)
from helpers.transcripts import assert_same, load_bundled

from nanos2t.transcription.loading import BUNDLED
from nanos2t.transcription.segmentation import Limits
from nanos2t.transcription.transcriber import SpeechToText


def digits(times: list[float], seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a recording (L,) with the bundled sample at these times in silence, and the sample."""
    one = load_bundled().load_audio(BUNDLED.parent / "sample.wav")
    waveform = np.zeros(round(seconds * RATE), np.float32)
    for time in times:
        waveform[round(time * RATE) :][: len(one)] += one
    return waveform, one


def test_a_recording_is_heard_piece_by_piece():
    """As often as it is said, in any language, at its time; what is between is no text."""
    times = [0.0, 7.5, 40.0, 63.3]
    waveform, one = digits(times, 70.0)
    for language in "verbatim", "de":
        alone = load_bundled().transcribe(one, sample_rate=RATE, language=language, words=True)
        result = load_bundled().transcribe(
            waveform, sample_rate=RATE, language=language, words=True
        )
        assert (
            alone.text and result.text == " ".join([alone.text] * 4) and len(result.segments) == 4
        )
        assert [item.text for item in result.segments] == [alone.text] * 4
        starts = [item.words[0].start for item in result.segments]
        assert starts == pytest.approx([time + alone.words[0].start for time in times], abs=0.1)
        assert result.words == [word for item in result.segments for word in item.words]
        for item in result.segments:
            assert all(item.start <= word.start <= word.end <= item.end for word in item.words)
        assert all(a.end <= b.start for a, b in zip(result.segments, result.segments[1:]))


def test_a_file_and_an_array_are_cut_alike(tmp_path: Path):
    waveform, _ = digits([1.0, 31.0], 66.0)
    from_file = load_bundled().transcribe(write(tmp_path / "long.wav", waveform))
    assert_same(from_file, load_bundled().transcribe(waveform, sample_rate=RATE))
    with open(tmp_path / "long.wav", "rb") as file:
        assert_same(from_file, load_bundled().transcribe(file))


@pytest.mark.parametrize("loud", [0.0, 1e-5, 1e-3, 0.1])
def test_long_silence_and_noise_are_no_text(loud: float):
    noise = loud * np.random.default_rng(2).standard_normal(40 * RATE).astype(np.float32)
    assert load_bundled().transcribe(noise, sample_rate=RATE).segments == []


def test_the_limits_of_the_bundled_model():
    """Training has at most four digits, and pauses of 0.8 seconds."""
    assert load_bundled().limits == Limits(5, 4) and load_bundled().limits.pause == 100


def test_progress(stt: SpeechToText):
    waveform, done = digits([1.0, 31.0], 66.0)[0], []
    load_bundled().transcribe(waveform, sample_rate=RATE, progress=done.append)
    assert sum(done) == pytest.approx(66.0) and min(done) >= 0 and len(done) > 1
    done.clear()
    list(
        stt.transcribe_many(
            [*SOUNDS, np.zeros(0)], 3, sample_rate=RATE, progress=done.append, return_errors=True
        )
    )
    assert sum(done) == pytest.approx(sum(map(len, SOUNDS)) / RATE)


def test_segments_come_while_a_pipe_is_read(tmp_path: Path):
    """With the texts of the whole, in order, each before the pipe has given much more."""
    waveform, one = digits([0.0, 7.5, 40.0, 63.3, 130.0], 150.0)
    data = write(tmp_path / "long.wav", waveform, subtype="PCM_16").read_bytes()
    stt = load_bundled()
    expected = stt.transcribe(tmp_path / "long.wav")
    pipe = Trickle(data, 1000)
    received = []
    stt.transcribe_stream(pipe, lambda segment: received.append((segment, pipe.given)))
    assert " ".join(segment.text for segment, _ in received) == expected.text
    for (segment, given), other in zip(received, expected.segments, strict=True):
        assert (segment.start, segment.end) == pytest.approx((other.start, other.end))
        assert given / 2 / RATE < segment.end + 40

    at_once = []
    stt.transcribe_stream(Trickle(data, 10**9), at_once.append, 1)
    assert at_once == [segment for segment, _ in received]


def test_what_a_pipe_gave_before_damage_is_not_lost(tmp_path: Path):
    waveform, _ = digits([0.0, 7.5, 40.0], 80.0)
    waveform[-100] = np.nan
    data = write(tmp_path / "long.wav", waveform).read_bytes()
    received = []
    with pytest.raises(ValueError, match="audio stream: expected finite samples"):
        load_bundled().transcribe_stream(Trickle(data), received.append)
    assert len(received) >= 2 and received[0].text == received[1].text != ""
    with pytest.raises(ValueError, match="batch_size is 0"):
        load_bundled().transcribe_stream(Trickle(data), received.append, 0)
