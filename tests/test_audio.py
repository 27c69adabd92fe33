# pytest tests/test_audio.py
"""nanos2t/audio.py. Files are made here by soundfile; damaged ones: recordings/test_decoding.py."""

import io
import sys
import warnings

import numpy as np
import pytest
import soundfile
import soxr
import torch
from helpers.sounds import (
    LOSSLESS,
    LOSSY,
    RATE,
    amplitude_at,
    encode,
    every_source,
    noise,
    silently,
    sine,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from nanos2t import audio
from nanos2t.recordings import decoding

# load: formats, rates, widths, channels


@pytest.mark.parametrize(("kind", "subtype", "rate", "channels", "error"), LOSSLESS)
def test_lossless_file_is_its_samples_resampled(tmp_path, kind, subtype, rate, channels, error):
    sound = np.stack([sine(rate, hertz=300 + 100 * channel) for channel in range(channels)], axis=1)
    path = tmp_path / f"clip.{kind.lower()}"
    path.write_bytes(encode(sound, rate, kind, subtype))
    waveform = silently(path)
    expected = soxr.resample(sound.mean(axis=1), rate, RATE, quality="HQ")
    assert waveform.dtype == np.float32
    assert waveform.shape == expected.shape == (int(len(sound) * RATE / rate + 0.5),)
    assert np.abs(waveform - expected).max() < 1.5 * error
    assert amplitude_at(waveform, RATE, 300) == pytest.approx(0.4 / channels, rel=0.02)


@pytest.mark.parametrize(("kind", "subtype", "rate", "channels"), LOSSY)
def test_lossy_file_keeps_length_pitch_and_loudness(tmp_path, kind, subtype, rate, channels):
    sound = np.stack([sine(rate)] * channels, axis=1)
    path = tmp_path / "clip"  # no ending: the content decides
    path.write_bytes(encode(sound, rate, kind, subtype))
    waveform = silently(path)
    assert waveform.shape == (round(len(sound) * RATE / rate),)
    assert amplitude_at(waveform, RATE, 440) == pytest.approx(0.4, rel=0.03)
    assert amplitude_at(waveform, RATE, 880) < 0.01


def test_channels_are_averaged():
    left, right = noise(1000, 1), noise(1000, 2)
    data = encode(np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(silently(data), (left + right) / 2, atol=1e-7)


def test_what_the_new_rate_can_not_hold_is_filtered_out():
    waveform = silently(encode(sine(44_100, hertz=12_000), 44_100))
    assert np.abs(waveform[1000:-1000]).max() < 1e-3  # else an alias at 4,000 Hz


def test_target_rate_is_the_callers():
    data = encode(sine(8_000), 8_000)
    assert len(silently(data, 24_000)) == 3 * len(silently(data, 8_000))


def test_one_sample_is_a_clip_at_any_rate():
    assert silently(encode(np.array([0.5]), 48_000)).shape == (1,)


def test_soxr_is_not_needed_at_the_models_rate(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert len(silently(encode(sine(RATE), RATE))) == RATE + 123
    with pytest.raises(ImportError):
        audio.load_audio(encode(sine(8_000), 8_000), RATE)


# load: sources and blocks


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_blocks_are_load_in_pieces(rate):
    data = encode(noise(10 * rate + 77), rate)
    pieces = list(audio.read_blocks(data, RATE))
    assert len(pieces) > 2
    assert max(map(len, pieces)) < 5 * RATE
    np.testing.assert_array_equal(np.concatenate(pieces), silently(data))


def test_blocks_read_only_what_they_need():
    stream = io.BytesIO(encode(noise(60 * RATE), RATE))
    next(audio.read_blocks(stream, RATE))
    assert stream.tell() < 12 * RATE * 2  # bytes


@pytest.mark.parametrize(
    "rate",
    [0, -16_000, 0.5, 1e30, 10**400, np.inf, -np.inf, np.nan, "16000", b"8", None, True, [1], 1j],
)
def test_rate_out_of_range(rate):
    with pytest.raises(ValueError, match="rate"):
        audio.load_audio(encode(sine(RATE), RATE), rate)
    with pytest.raises(ValueError, match="rate"):
        audio.from_array(np.ones(10), rate, RATE)
    with pytest.raises(ValueError, match="rate: expected a number of Hz") as caught:
        audio.from_array(np.ones(10), RATE, rate)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("rate", [8_000.0, np.float32(8_000), np.int64(8_000), np.uint16(8_000)])
def test_a_rate_may_be_any_number(rate):
    assert len(audio.from_array(np.ones(80), rate, RATE)) == 160


@pytest.mark.parametrize("seconds", [-1, np.inf, -np.inf, np.nan, "1", True])
def test_time_that_is_no_time(seconds):
    data = encode(sine(RATE), RATE)
    with pytest.raises(ValueError, match="start: expected seconds, 0 or more"):
        audio.load_audio(data, RATE, start=seconds)
    with pytest.raises(ValueError, match="end: expected seconds, 0 or more"):
        audio.load_audio(data, RATE, end=seconds)


# load: files that are refused


@pytest.mark.parametrize(
    ("kind", "frames"), [("WAV", 1001), ("FLAC", 9000), ("WAV", 2**63 - 1), ("MP3", 9000)]
)
def test_fewer_samples_than_the_file_announces(kind, frames):
    class Announcing(soundfile.SoundFile):
        seekable = staticmethod(lambda: False)

    Announcing.frames = frames
    with Announcing(
        io.BytesIO(encode(noise(1000), RATE, kind, soundfile.default_subtype(kind)))
    ) as file:
        decoded = sum(map(len, decoding.decode_blocks(file)))
        assert decoded == 1000
        if frames < 2**62 and kind != "MP3":
            with pytest.raises(ValueError, match=f"found 1000 of {frames} samples"):
                decoding.check_header_length(file, decoded)
        else:  # it does not know
            decoding.check_header_length(file, decoded)


def test_damaged_file_yields_what_comes_before_the_damage():
    data = encode(noise(10 * RATE), RATE, "FLAC")
    some = audio.read_blocks(data[: len(data) // 2], RATE)
    first = next(some)
    np.testing.assert_array_equal(first, silently(data)[: len(first)])
    with pytest.raises(ValueError, match="audio bytes: damaged"):
        list(some)


def test_a_part_is_the_same_part_of_the_whole(tmp_path):
    """In seconds, of a path, bytes, a stream and a pipe's copy; across several blocks."""
    data = encode(noise(10 * RATE), RATE, subtype="FLOAT")
    whole = silently(data)
    for source in every_source(data, tmp_path / "clip.wav"):
        part = audio.load_audio(source, RATE, start=0.25, end=9.5)
        np.testing.assert_array_equal(part, whole[RATE // 4 : 19 * RATE // 2])
    np.testing.assert_array_equal(audio.load_audio(data, RATE, start=9.0), whole[9 * RATE :])
    with pytest.raises(ValueError, match="audio bytes: 10 s long, expected .* from 2 s to 11 s"):
        audio.load_audio(data, RATE, start=2.0, end=11.0)


# from_array


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_float_arrays(dtype):
    sound = sine(RATE)
    waveform = audio.from_array(sound.astype(dtype), RATE, RATE)
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, sound, atol=3e-4 if dtype == "float16" else 1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_float_tensors(dtype):
    sound = torch.from_numpy(sine(RATE)).to(dtype).requires_grad_()
    waveform = audio.from_array(sound, RATE, RATE)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, sound.detach().float().numpy())


@pytest.mark.parametrize("dtype", ["int8", "int16", ">i2", "int32", "int64", "uint8", "uint16"])
def test_integers_are_scaled_to_one(dtype):
    info = np.iinfo(dtype)
    middle = (int(info.max) + int(info.min) + 1) // 2
    quarter = (int(info.max) - int(info.min) + 1) // 4
    samples = np.array([info.min, middle - quarter, middle, middle + quarter, info.max], dtype)
    top = min(1.0, 1 - 2.0 ** (1 - info.bits)) if info.bits < 25 else 1.0
    waveform = audio.from_array(samples, RATE, RATE)
    assert waveform.dtype == np.float32
    np.testing.assert_array_equal(waveform, np.array([-1.0, -0.5, 0.0, 0.5, top], np.float32))
    if dtype in ("int8", "int16", "int32", "int64", "uint8"):
        np.testing.assert_array_equal(
            audio.from_array(torch.from_numpy(samples), RATE, RATE), waveform
        )


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_array_equals_file(rate):
    samples = np.round(sine(rate) * 2**15).astype(np.int16)
    data = encode(samples, rate)
    np.testing.assert_array_equal(audio.from_array(samples, rate, RATE), silently(data))
    np.testing.assert_array_equal(audio.from_array(samples[::-1][::-1], rate, RATE), silently(data))
    assert audio.from_array(samples[:1], rate, RATE).size >= 1


def test_from_array_does_not_share_memory():
    samples = np.ones(10, np.float32)
    audio.from_array(samples, RATE, RATE)[:] = 0
    assert samples.sum() == 10


@pytest.mark.parametrize(
    ("waveform", "found"),
    [
        (np.zeros((2, 100)), r"\(2, 100\).*average the channels"),
        (torch.zeros(1, 100), r"\(1, 100\).*average the channels"),
        (np.float32(1.0), r"\(\)"),
        (np.zeros(0), r"\(0,\)"),
        (torch.zeros(0), r"\(0,\)"),
        (np.array([0.0, np.nan]), "waveform: expected finite samples up to 1e.15, found nan"),
        (np.array([0.0, -2e15]), "found 2e.15"),
        (torch.tensor([0.0, float("-inf")]), "found inf"),
        (np.zeros(10, complex), "complex"),
        (np.zeros(10, bool), "bool"),
        ("clip.wav", "<U8"),
        (None, "object"),
    ],
)
def test_array_is_refused(waveform, found):
    with pytest.raises(ValueError, match=found):
        audio.from_array(waveform, RATE, RATE)


def test_array_without_a_rate():
    with pytest.raises(ValueError, match="sample_rate.*None"):
        audio.from_array(np.ones(10), None, RATE)


# normalise and pad


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.floats(1e-6, 1e3), st.floats(-10, 10), st.integers(0, 99))
def test_normalised_has_mean_0_and_variance_1(samples, scale, offset, seed):
    waveform = (
        scale * np.random.default_rng(seed).standard_normal(samples) + offset * scale
    ).astype(np.float32)
    normalised = audio.normalise(waveform)
    assert normalised.dtype == np.float32
    assert normalised.shape == waveform.shape
    exact = waveform.astype(np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)
    np.testing.assert_allclose(normalised, exact, atol=1e-4)
    if samples > 100 and scale > 1e-2:
        assert abs(normalised.mean(dtype=np.float64)) < 1e-4
        assert normalised.var(dtype=np.float64) == pytest.approx(1, abs=2e-3)


def test_normalise_divides_by_the_population_deviation():
    np.testing.assert_allclose(audio.normalise(np.array([1.0, 3.0]), eps=0), [-1.0, 1.0])
    np.testing.assert_allclose(audio.normalise(np.array([1.0, 3.0]), eps=3), [-0.5, 0.5])


def test_silence_stays_silence():
    np.testing.assert_array_equal(audio.normalise(np.zeros(1000, np.float32)), np.zeros(1000))
    assert np.abs(audio.normalise(np.full(1000, 0.1, np.float32))).max() < 1e-3


@pytest.mark.parametrize("samples", [1, 400, 50_001])
def test_normalise_is_the_one_of_transformers(samples):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    waveform = (noise(samples) + 0.03).astype(np.float32)
    theirs = extractor(waveform, sampling_rate=RATE, return_tensors="np")["input_values"][0]
    np.testing.assert_array_equal(audio.normalise(waveform), theirs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 50))
def test_pad_keeps_the_samples_and_marks_them(lengths, min_samples):
    waveforms = [1 + np.arange(length, dtype=np.float32) for length in lengths]
    input_values, attention_mask = audio.pad(waveforms, min_samples)
    assert input_values.shape == attention_mask.shape == (len(lengths), max(*lengths, min_samples))
    assert input_values.dtype == torch.float32
    assert attention_mask.dtype == torch.int64
    for row, waveform in enumerate(waveforms):
        real = max(len(waveform), min_samples)
        np.testing.assert_array_equal(input_values[row, : len(waveform)], waveform)
        assert not input_values[row, len(waveform) :].any()
        assert attention_mask[row].tolist() == [1] * real + [0] * (attention_mask.shape[1] - real)


def test_pad_without_waveforms_and_of_other_floats():
    with pytest.raises(ValueError, match="expected at least one"):
        audio.pad([])
    waveform = np.ones(3)
    waveform.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert audio.pad([waveform])[0].dtype == torch.float32


def test_pad_is_the_one_of_transformers():
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    waveforms = [noise(samples, samples).astype(np.float32) for samples in (700, 400, 913)]
    theirs = extractor(waveforms, sampling_rate=RATE, padding=True, return_tensors="pt")
    input_values, attention_mask = audio.pad([audio.normalise(waveform) for waveform in waveforms])
    assert torch.equal(attention_mask, theirs["attention_mask"].long())
    torch.testing.assert_close(input_values, theirs["input_values"], atol=0, rtol=0)
