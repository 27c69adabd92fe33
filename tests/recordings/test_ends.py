# pytest tests/recordings/test_ends.py
"""nanos2t/recordings/ends.py: files that were cut, or go on, unseen by their container."""

import io
import struct

import numpy as np
import pytest
from helpers.sounds import RATE, encode, noise, refuse, silently

from nanos2t import audio
from nanos2t.recordings.ends import measure_mp3


def warned(data: bytes, text: str) -> np.ndarray:
    with pytest.warns(UserWarning, match=f"audio bytes: .*{text}"):
        return audio.load_audio(data, RATE)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("pages", [1, 3, 6])
def test_an_ogg_that_is_cut_at_a_page_is_decoded_with_a_warning(subtype, pages):
    data = encode(noise(10 * RATE), RATE, "OGG", subtype)
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    waveform = warned(data[: starts[-pages]], "may be cut short")
    assert 2 * RATE < len(waveform) < 10 * RATE
    assert len(silently(data)) == 10 * RATE


@pytest.mark.parametrize("bit_depth", ["PCM_16", "FLOAT", "PCM_24"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_cut_rf64_is_decoded_with_a_warning(bit_depth, share):
    data = encode(noise(5 * RATE), RATE, "RF64", bit_depth)
    waveform = warned(data[: int(share * len(data))], f"found .* of {5 * RATE} samples")
    np.testing.assert_array_equal(waveform, silently(data)[: len(waveform)])
    assert len(waveform) / RATE == pytest.approx(5 * share, abs=0.05)


@pytest.mark.parametrize("seconds", [0.1, 1, 4.9])
def test_samples_after_the_data_chunk_of_a_wav_are_reported(seconds):
    data = bytearray(encode(noise(5 * RATE), RATE))
    size = 2 * round(seconds * RATE)
    data[40:44] = struct.pack("<I", size)
    rest = 10 * RATE - size
    assert len(warned(bytes(data), f"{rest} bytes after the samples .* not decoded")) == size // 2


def test_chunks_and_padding_after_the_samples_of_a_wav_are_not_reported():
    data = encode(noise(RATE), RATE)
    chunk = b"LIST" + struct.pack("<I", 1000) + bytes(range(250)) * 4
    for rest in chunk, chunk + chunk, b"id3 " + struct.pack("<I", 999) + bytes(1000), bytes(4096):
        assert len(silently(data + rest)) == RATE


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("missing", [1, 17, 60])
def test_an_mp3_without_a_length_that_ends_within_a_frame(rate, missing):
    sound = noise(5 * rate)
    options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
    data = encode(sound, rate, "MP3", "MPEG_LAYER_III", **options)
    data = data[data.index(data[:2], 4) :]
    silently(data)
    silently(data + b"TAG" + bytes(125))
    waveform = warned(data[:-missing], f"ends {missing} bytes before")
    assert len(waveform) / RATE == pytest.approx(5.0, abs=0.4)
    samples, lacking = measure_mp3(io.BytesIO(data))
    assert lacking == 0 and samples / rate == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_an_mp3_that_libsndfile_takes_to_be_shorter_is_refused(mode, rate):
    """It estimates the length from the first frame: 13 of 20 s are decoded, near the file's end."""
    options = {"bitrate_mode": mode, "compression_level": 0.5}
    data = encode(noise(20 * rate), rate, "MP3", "MPEG_LAYER_III", **options)
    refuse(data[data.index(data[:2], 4) :], "audio bytes", "found", "samples")
