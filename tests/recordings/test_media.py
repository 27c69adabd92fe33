# pytest tests/recordings/test_media.py
"""nanos2t/recordings/media.py: files of phones and browsers. They are made by av."""

import io
import sys
import warnings

import numpy as np
import pytest
from helpers.sounds import (
    RATE,
    amplitude_at,
    encode_media,
    every_source,
    refuse,
    silently,
    sine,
)

import nanos2t
from nanos2t import audio

av = pytest.importorskip("av")

# The format, codec and rate of each kind of file, and the error of its length in seconds.
FILES = [
    ("ipod", "aac", 44_100, 0.06),
    ("mp4", "aac", 16_000, 0.15),
    ("3gp", "libopencore_amrnb", 8_000, 0.05),
    ("amr", "libopencore_amrnb", 8_000, 0.05),
    ("webm", "libopus", 48_000, 0.05),
    ("matroska", "aac", 44_100, 0.06),
    ("mov", "alac", 44_100, 0.001),
    ("adts", "aac", 44_100, 0.06),
]


@pytest.mark.parametrize(("kind", "codec", "rate", "error"), FILES)
def test_a_file_keeps_length_pitch_and_loudness(tmp_path, capfd, kind, codec, rate, error):
    data = encode_media(sine(rate, 5.0)[None], rate, kind, codec)
    for source in every_source(data, tmp_path / "clip"):
        waveform = silently(source)
        assert len(waveform) / RATE == pytest.approx(5.0, abs=error + 0.01)
        assert amplitude_at(waveform, RATE, 440) == pytest.approx(0.4, rel=0.2)
    np.testing.assert_array_equal(silently(data), silently(io.BytesIO(data)))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "codec", "rate", "error"), FILES)
def test_a_part_is_the_same_part_of_the_whole(kind, codec, rate, error):
    data = encode_media(sine(rate, 5.0)[None], rate, kind, codec)
    whole = silently(data, rate)
    part = audio.load_audio(data, rate, start=1.25, end=3.5)
    np.testing.assert_array_equal(part, whole[round(1.25 * rate) : round(3.5 * rate)])
    with pytest.raises(ValueError, match="expected a recording that contains the part"):
        audio.load_audio(data, rate, start=1.0, end=7.0)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize(("kind", "codec", "rate", "error"), FILES)
def test_a_cut_file_is_refused(tmp_path, capfd, kind, codec, rate, error, share):
    data = encode_media(sine(rate, 5.0)[None], rate, kind, codec)
    path = tmp_path / "cut.bin"
    path.write_bytes(data[: int(share * len(data)) + 5])
    refuse(path, str(path), "")
    assert capfd.readouterr() == ("", "")


def test_channels_in_opposite_phase_are_heard():
    speech = sine(48_000, 5.0)
    data = encode_media(np.stack([speech, -speech]), 48_000, "mov", "alac", "stereo")
    with pytest.warns(UserWarning, match="audio bytes: .*opposite phase"):
        waveform = audio.load_audio(data, RATE)
    assert amplitude_at(waveform, RATE, 440) == pytest.approx(0.4, rel=0.05)


def test_a_video_without_sound_is_refused():
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width, track.height = 32, 32
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    refuse(data.getvalue(), "audio bytes", "without sound, expected an audio track")


@pytest.mark.parametrize(("kind", "codec", "rate", "error"), FILES)
def test_without_the_package_the_message_says_what_helps(monkeypatch, kind, codec, rate, error):
    data = encode_media(sine(rate)[None], rate, kind, codec)
    monkeypatch.setitem(sys.modules, "av", None)
    refuse(data, "audio bytes", "pip install 'nanos2t[media]'", "file is not damaged", "ffmpeg -i")


def test_long_files_are_decoded_as_they_are_read():
    data = encode_media(sine(16_000, 600.0)[None], 16_000, "mov", "alac")
    stream = io.BytesIO(data)
    blocks = audio.read_blocks(stream, RATE)
    assert len(next(blocks)) < 10 * RATE
    assert max(len(block) for block in blocks) < 10 * RATE


@pytest.mark.parametrize(
    ("kind", "codec", "rate"), [("ipod", "aac", 44_100), ("amr", *FILES[3][1:3])]
)
def test_the_bundled_model_reads_them(kind, codec, rate):
    stt = nanos2t.load()
    sample = audio.load_audio("nanos2t/assets/sample.wav", rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = stt.transcribe(encode_media(sample[None], rate, kind, codec))
    assert result.text == "two four seven"
