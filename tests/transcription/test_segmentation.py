# pytest tests/transcription/test_segmentation.py
"""nanos2t/transcription/segmentation.py: where recordings with bursts at known places are cut."""

import numpy as np
import pytest

from nanos2t.transcription import segmentation as segment
from nanos2t.transcription.segmentation import Limits

RATE = 8000
ALL = Limits()


def recording(*parts: float, loud: float = 0.1, background: float = 0.0) -> np.ndarray:
    """Return seconds of sound, of silence, of sound ... (L,), with three syllables a second."""
    random, sounds = np.random.default_rng(0), []
    for i, seconds in enumerate(parts):
        time = np.arange(round(seconds * RATE)) / RATE
        buzz = (
            loud * np.sign(np.sin(900 * time + 0.1)) * (0.1 + 0.9 * np.sin(3 * np.pi * time) ** 2)
        )
        sounds.append(buzz * (i % 2 == 0))
    waveform = np.concatenate(sounds)
    return (waveform + background * random.standard_normal(len(waveform))).astype(np.float32)


def cut(
    waveform: np.ndarray, limits: Limits = ALL, block: float = 30.0
) -> list[tuple[float, float]]:
    """From when to when each piece lasts, in seconds; what is promised of all pieces is checked."""
    size = round(block * RATE)
    blocks = (waveform[i : i + size] for i in range(0, len(waveform), size))
    *found, (length, nothing) = segment.split_recording(blocks, RATE, limits)
    assert length == len(waveform) and len(nothing) == 0
    spans = [(first, first + len(piece)) for first, piece in found]
    for (first, end), (_, piece) in zip(spans, found):
        assert first < end and np.array_equal(waveform[first:end], piece)
        assert end - first <= limits.seconds * RATE + RATE * segment.MIN_SPLIT_SECONDS
    assert all(end <= first for (_, end), (first, _) in zip(spans, spans[1:]))
    return [(first / RATE, end / RATE) for first, end in spans]


def holds(spans: list[tuple[float, float]], *parts: float) -> list[int]:
    """The number of the piece that each burst of `recording(*parts)` is in as a whole."""
    places, time = [], 0.0
    for i, seconds in enumerate(parts):
        inside = [
            n for n, (a, b) in enumerate(spans) if a <= time + 0.05 and time + seconds - 0.05 <= b
        ]
        places += inside if i % 2 == 0 else []
        time += seconds
    assert len(places) == (len(parts) + 1) // 2, "a burst is cut, or lost"
    return places


@pytest.mark.parametrize("background", [0.0, 1e-5, 0.003])
def test_a_pause_ends_a_piece(background: float):
    parts = 0.5, 0.8, 0.5, 1.2, 0.5, 5.0, 0.4, 0.3, 0.4, 0.7
    spans = cut(recording(*parts, background=background))
    assert holds(spans, *parts) == [0, 0, 1, 2, 2]
    starts, ends = zip(*spans)
    assert starts == pytest.approx([0.0, 2.5, 8.0], abs=0.25)
    assert ends == pytest.approx([2.3, 4.0, 10.3], abs=0.25)


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.3, 1.99])
def test_a_brief_recording_is_one_piece_as_it_is(seconds: float):
    for waveform in (
        recording(seconds),
        np.zeros(round(seconds * RATE), np.float32)[: round(seconds * RATE)],
    ):
        if len(waveform):
            assert cut(waveform) == [(0.0, len(waveform) / RATE)]


@pytest.mark.parametrize("parts", [(2.5,), (0.6, 0.5, 0.7, 0.3, 0.5), (0.3, 0.9, 0.5, 0.5)])
def test_one_stretch_is_whole(parts: tuple):
    waveform = recording(*parts, background=1e-4)
    assert len(parts) == 1 or cut(waveform) == [
        (0.0, pytest.approx(len(waveform) / RATE, abs=0.011))
    ]


@pytest.mark.parametrize("seconds", [2.5, 70.0])
@pytest.mark.parametrize(
    "kind", ["zeros", "constant", "last bit", "white", "loud white", "pink", "hum"]
)
def test_silence_noise_and_hum_are_nothing(kind: str, seconds: float):
    random, size = np.random.default_rng(1), round(seconds * RATE)
    white = random.standard_normal(size)
    waveform = {
        "zeros": np.zeros(size),
        "constant": np.full(size, 0.3),
        "last bit": random.integers(-1, 2, size) / 2**15,
        "white": 1e-3 * white,
        "loud white": 0.2 * white,
        "pink": np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.arange(1, size // 2 + 2))),
        "hum": 0.1 * np.sin(np.arange(size) * 2 * np.pi * 50 / RATE),
    }[kind]
    assert cut(waveform.astype(np.float32)) == []


def test_a_click_is_no_word():
    waveform = recording(0.6, 3.0, 0.6, 3.0, background=1e-3)
    waveform[2 * RATE : 2 * RATE + 60] = 0.5
    assert len(cut(waveform)) == 2


@pytest.mark.parametrize("sounds", [1, 2, 3, 4])
@pytest.mark.parametrize("gap", [0.15, 0.4, 0.7])
def test_no_piece_has_more_sounds_than_allowed(sounds: int, gap: float):
    parts = [part for _ in range(60) for part in (0.35, gap)][:-1]
    for background in 0.0, 0.003:
        places = holds(cut(recording(*parts, background=background), Limits(99.0, sounds)), *parts)
        counts = np.bincount(places)
        assert counts.max() <= sounds and counts.mean() > sounds / 2 and places == sorted(places)


def test_a_long_sound_counts_as_several():
    spans = cut(recording(8.0, 1.5, 0.2), Limits(99.0, 4))
    assert len(spans) >= 5 and spans[0][0] == 0.0 and spans[-2][1] >= 8.0
    assert all(b == a for (_, b), (a, _) in zip(spans[:-2], spans[1:-1])), (
        "nothing is lost, nothing twice"
    )


def test_cuts_are_where_it_is_quietest():
    """Longer gaps before shorter ones, and with the same length the quieter one."""
    parts = 0.4, 0.2, 0.4, 0.6, 0.4, 0.2, 0.4, 0.2, 0.4, 0.2, 0.4
    assert holds(cut(recording(*parts), Limits(99.0, 4)), *parts) == [0, 0, 1, 1, 1, 1]
    waveform = recording(12.0, background=0.0)
    waveform[4 * RATE : round(4.2 * RATE)] *= 0.3
    waveform[round(4.5 * RATE) : round(4.7 * RATE)] *= 0.1
    waveform[9 * RATE : round(9.2 * RATE)] *= 0.1
    (_, first), (_, second), *_ = cut(waveform, Limits(6.0))
    assert 4.5 <= first <= 4.7 and 9.0 <= second <= 9.2


def test_no_piece_is_longer_than_allowed():
    for seconds in 1.0, 3.0, 7.5:
        spans = cut(recording(40.0, 1.2, 0.5, background=0.01), Limits(seconds))
        assert max(b - a for a, b in spans) <= seconds + 0.01 and spans[-2][1] >= 40.0


@pytest.mark.parametrize("peak", [10.0, 1.0, 1e-2, 1e-3, 1e-5, 1e-8, 1e-10])
@pytest.mark.parametrize("background", [0.0, 1e-3])
def test_the_level_does_not_matter(peak: float, background: float):
    parts = 0.5, 2.0, 0.5, 40.0, 0.5, 1.4, 0.5, 35.0, 0.5
    waveform = recording(*parts, loud=1.0, background=background)
    assert cut(waveform * np.float32(peak), block=10.0) == cut(waveform, block=10.0)
    assert len(cut(waveform * np.float32(peak), block=10.0)) == 5


def test_silence_is_relative_to_what_was_louder():
    """After speech, sounds 80 dB below it are the last bits of what is silence."""
    waveform = recording(0.5, 3.0, 0.5, 3.0, 0.5)
    assert len(cut(np.concatenate([waveform, waveform * np.float32(1e-4)]))) == 3
    assert len(cut(np.concatenate([waveform, waveform * np.float32(0.01)]))) == 5


@pytest.mark.parametrize("block", [2.0, 3.3, 7.0, 1000.0])
def test_blocks_do_not_matter(block: float):
    parts = [part for i in range(40) for part in (0.5, (0.2, 0.3, 1.4)[i % 3])]
    waveform = recording(*parts, background=1e-4)
    expected, actual = cut(waveform, Limits(5.0, 4)), cut(waveform, Limits(5.0, 4), block)
    assert holds(actual, *parts) == holds(expected, *parts) == [i // 3 for i in range(40)]


def test_positions_are_exact_over_hours():
    """Six hours of silence with a burst now and then: a generator, so that only a block is held."""
    burst, hours = recording(0.5), 6

    def blocks():
        for minute in range(hours * 60):
            block = np.zeros(
                60 * RATE + (minute == 0), np.float32
            )  # one sample late from the second on
            if minute % 60 == 59:
                block[30 * RATE : 30 * RATE + len(burst)] = burst
            yield block

    *found, (length, _) = segment.split_recording(blocks(), RATE, ALL)
    assert length == hours * 3600 * RATE + 1
    for hour, (first, piece) in enumerate(found):
        start = first + int(np.flatnonzero(piece)[0])
        assert start == ((hour * 60 + 59) * 60 + 30) * RATE + 1
    assert len(found) == hours
