# pytest tests/recordings/test_channels.py
"""nanos2t/recordings/channels.py: channels that cancel each other, or hide others."""

import io
import warnings

import numpy as np
import pytest
from helpers.sounds import RATE, encode, noise, silently, sine

import nanos2t
from nanos2t import audio


def speak(seconds: float = 12.0, rate: int = RATE, level: float = 0.2) -> np.ndarray:
    """Bursts of filtered noise, three a second, with pauses: as uneven as speech."""
    random = np.random.default_rng(3)
    times = np.arange(round(seconds * rate)) / rate
    burst = np.clip(np.sin(2 * np.pi * 1.5 * times), 0, None) * (times % 3 < 2)
    return level * burst * np.convolve(random.standard_normal(len(times)), np.ones(8) / 3, "same")


def load(*channels: np.ndarray, rate: int = RATE, warning: str | None = None) -> np.ndarray:
    """Load a file of these channels; `warning` is expected once, or none at all."""
    data = encode(np.stack(channels, axis=1), rate, subtype="FLOAT")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        waveform = audio.load_audio(data, RATE)
    assert len(caught) == (warning is not None), [str(each.message) for each in caught]
    assert all(f"audio bytes: {warning}" in str(each.message) for each in caught)
    return waveform


def correlate(one: np.ndarray, other: np.ndarray) -> float:
    return abs(np.corrcoef(one, other)[0, 1])


@pytest.mark.parametrize("seconds", [0.02, 0.5, 4.0, 25.0])
@pytest.mark.parametrize("signs", [(1, -1), (1, -1, 1, -1), (1, -0.9), (0.3, -0.3, 0.4, -0.4)])
def test_opposite_phase_is_heard(signs, seconds):
    speech = noise(round(seconds * RATE))
    waveform = load(*[sign * speech for sign in signs], warning="from 0 s on only channel")
    assert len(waveform) == len(speech) and correlate(waveform, speech) > 0.999


@pytest.mark.parametrize("signs", [(1, -1), (1, -1, 1, -1)])
@pytest.mark.parametrize("level", [0.001, 0.01, 0.03])
def test_opposite_phase_with_independent_noise(signs, level):
    speech = speak()
    channels = [sign * speech + 10 * level * noise(len(speech), i) for i, sign in enumerate(signs)]
    waveform = load(*channels, warning="from 0 s on only channel")
    assert correlate(waveform, channels[0]) > 0.5


@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("seconds", [0.005, 0.1, 0.2])
def test_opposite_phase_beside_a_click_that_is_louder_than_speech(place, seconds):
    """The click is not cancelled: of the loudest frames the mean loses nothing."""
    speech = speak(9.0, level=0.03)
    start = round(place * (len(speech) - seconds * RATE))
    channels = [speech.copy(), -speech]
    for number, channel in enumerate(channels):
        click = noise(round(seconds * RATE), number)
        channel[start : start + len(click)] += click / np.abs(click).max()
    waveform = load(*channels, warning="from 0 s on only channel")
    before = slice(0, start) if place > 0.1 else slice(start + round(seconds * RATE), None)
    assert correlate(waveform[before], speech[before]) > 0.99


def test_opposite_phase_with_an_offset_and_a_hum_in_common():
    speech = speak()
    common = 0.2 + sine(RATE, 12.0, hertz=50, amplitude=0.1)[: len(speech)]
    waveform = load(common + speech, common - speech, warning="from 0 s on only channel")
    assert np.abs(np.abs(waveform - common) - np.abs(speech)).max() < 1e-5


def test_opposite_phase_from_some_time_on():
    early, late = speak(20.0), speak(15.0)
    waveform = load(
        np.concatenate([early, late]),
        np.concatenate([early, -late]),
        warning="from 12.288 s on only channel 1 of 2 is used: channels in opposite phase",
    )
    np.testing.assert_allclose(waveform[: len(early)], early, atol=1e-6)
    assert correlate(waveform[-10 * RATE :], late[-10 * RATE :]) > 0.999


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("kind", ["hum", "low hum", "buzz", "noise"])
@pytest.mark.parametrize("first", [True, False])
def test_a_channel_of_hum_is_left_out(kind, first, rate):
    speech = speak(12.0, rate) + 0.01 * noise(12 * rate)
    times = np.arange(len(speech)) / rate
    steady = {
        "hum": 0.5 * np.sin(2 * np.pi * 120 * times),
        "low hum": 0.5 * np.sin(2 * np.pi * 50 * times),
        "buzz": 0.3 * np.sign(np.sin(2 * np.pi * 100 * times)),
        "noise": 3 * noise(len(speech), 7),
    }[kind]
    channels = [speech, steady] if first else [steady, speech]
    number = 1 if first else 2
    waveform = load(
        *channels, rate=rate, warning=f"from 0 s on only channel {number} of 2 is used: a steady"
    )
    alone = silently(encode(speech, rate, subtype="FLOAT"))
    np.testing.assert_allclose(waveform, alone, atol=1e-6)


def test_a_hum_stays_left_out_while_nobody_speaks():
    speech = np.concatenate([speak(11.0), 1e-3 * noise(30 * RATE), speak(6.0)])
    hum = sine(RATE, 47.0, hertz=100)[: len(speech)]
    waveform = load(speech, hum, warning="from 0 s on only channel 1 of 2")
    np.testing.assert_allclose(waveform, speech, atol=1e-6)


def test_other_channels_are_averaged_without_a_warning():
    """Two voices that take turns, echoes, a silent channel, a quiet noise, five sounds, mono."""
    speech = speak(24.0)
    turns = np.arange(len(speech)) // (4 * RATE) % 2
    echo = np.concatenate([np.zeros(40), speech[:-40]])
    quiet = 1e-3 * noise(len(speech), 5)
    for channels in (
        (speech * turns + quiet, speech * (1 - turns) + quiet),
        (speech, echo),
        (speech, 0.01 * speech),
        (speech, np.zeros_like(speech)),
        (speech, quiet),
        (noise(RATE, 1), noise(RATE, 2)),
        (noise(21 * RATE, 1), noise(21 * RATE, 2)),
        [sine(RATE, hertz=300 + 100 * i) for i in range(5)],
        (np.zeros(30_000), np.zeros(30_000)),
    ):
        expected = np.mean(channels, axis=0)
        np.testing.assert_allclose(load(*channels), expected, atol=1e-6)


def test_a_part_is_heard_as_well():
    speech = speak(30.0)
    data = encode(np.stack([speech, -speech], axis=1), RATE, subtype="FLOAT")
    with pytest.warns(UserWarning, match="opposite phase"):
        part = audio.load_audio(data, RATE, start=15.0, end=16.0)
    assert correlate(part, speech[15 * RATE : 16 * RATE]) > 0.999


def test_channels_are_chosen_as_the_file_is_read():
    speech = speak(120.0)
    stream = io.BytesIO(encode(np.stack([speech, -speech], axis=1), RATE))
    with pytest.warns(UserWarning, match="opposite phase"):
        next(audio.read_blocks(stream, RATE))
    assert stream.tell() < 20 * RATE * 4  # bytes


@pytest.mark.parametrize("case", ["opposite", "noise", "four", "hum"])
def test_the_bundled_model_hears_every_channel(case, tmp_path):
    stt = nanos2t.load()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample = stt.load_audio("nanos2t/assets/sample.wav")
    random = np.random.default_rng(0)
    channels = {
        "opposite": [sample, -sample],
        "noise": [sample, -sample] + 1e-3 * random.standard_normal((2, len(sample))),
        "four": [sample, -sample, sample, -sample],
        "hum": [sample, sine(16_000, 4, hertz=50, amplitude=0.5)[: len(sample)]],
    }[case]
    data = encode(np.stack(channels, axis=1), stt.sample_rate)
    with pytest.warns(UserWarning, match="only channel"):
        assert stt.transcribe(data).text == "two four seven"


def test_the_bundled_model_hears_a_quiet_recording():
    """In float: its peak is at 1e-3 or below, which a program did not scale to full scale."""
    stt = nanos2t.load()
    sample = stt.load_audio("nanos2t/assets/sample.wav")
    joined = np.concatenate([sample, 1e-4 * sample.std() * noise(30_000), sample])
    for peak in 1e-3, 5e-4:
        data = encode(peak / np.abs(joined).max() * joined, stt.sample_rate, subtype="FLOAT")
        result = stt.transcribe(data)
        assert result.text == "two four seven two four seven" and len(result.segments) == 2
