# pytest tests/recordings/test_decoding.py
"""nanos2t/recordings/decoding.py. Files are made by soundfile; damage is done to their bytes."""

import gc
import io
import os
import struct
import threading
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
from helpers.sounds import (
    RATE,
    encode,
    every_source,
    noise,
    refuse,
    refuse_everywhere,
    silently,
    sine,
    with_value,
)

from nanos2t import audio
from nanos2t.recordings import decoding

# sources


class OneWay(io.RawIOBase):
    """A pipe or a socket: reads on, cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self.data.readinto(memoryview(buffer)[:1000])


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_source_gives_the_same(tmp_path, kind):
    data = encode(sine(22_050), 22_050, kind, soundfile.default_subtype(kind))
    (already_read := io.BytesIO(data)).read()
    more = already_read, OneWay(data), io.BufferedReader(OneWay(data))
    for source in chain(more, every_source(data, tmp_path / "clip")):
        np.testing.assert_array_equal(silently(source), audio.load_audio(data, RATE))
    assert not already_read.closed


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_named_pipe(tmp_path):
    path, data = tmp_path / "pipe", encode(sine(RATE), RATE, "FLAC")
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writer.start()
    assert len(silently(path)) == RATE + 123
    writer.join()


def test_wav_whose_name_says_raw(tmp_path):
    path = tmp_path / "clip.RAW"
    path.write_bytes(encode(sine(RATE), RATE))
    assert len(silently(path)) == RATE + 123


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
@pytest.mark.filterwarnings(
    "error::pytest.PytestUnraisableExceptionWarning", "error::ResourceWarning"
)
def test_no_file_is_left_open(tmp_path):
    path, bad = tmp_path / "clip.wav", tmp_path / "bad.wav"
    path.write_bytes(encode(sine(RATE, 3), RATE))
    bad.write_text("not audio")
    opened = len(os.listdir("/proc/self/fd"))
    some = audio.read_blocks(path, RATE)
    next(some)
    assert len(os.listdir("/proc/self/fd")) == opened + 1
    some.close()
    audio.load_audio(path, RATE)
    with pytest.raises(ValueError, match=r"bad\.wav"):
        audio.load_audio(bad, RATE)
    assert len(os.listdir("/proc/self/fd")) == opened
    gc.collect()


# blocks


@pytest.mark.parametrize(
    ("kind", "subtype"), [("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16")]
)
def test_decoding_in_blocks_is_decoding_at_once(kind, subtype):
    # The second block ends within the last page of the Ogg, where Opus is wrong by 0.3 if soundfile
    # seeks.
    data = encode(noise(2 * 65_536 + 100), 48_000, kind, subtype)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        once = file.read(dtype="float32")
    np.testing.assert_allclose(silently(data, 48_000), once, atol=1e-6)


# files that are not audio


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "empty"),
        (b"hello world " * 500, "not audio"),
        (bytes(5000), "not audio"),
        (noise(3000).tobytes(), "not audio"),
        (b"\0\0\0\x20ftypM4A " + bytes(5000), "ffmpeg"),
        (b"RIFF\x24\0\0\0WAVE", "data"),
        (encode(np.zeros(0), RATE), "none"),
        (encode(np.zeros(0), RATE, "OGG", "VORBIS"), "none"),
        (with_value(np.nan), "up to 1e+15, found nan"),
        (with_value(np.inf), "found inf"),
        (with_value(-np.inf), "found inf"),
        (with_value(-3e38), "found 3e+38"),
    ],
)
def test_file_without_sound_is_refused(tmp_path, data, found):
    refuse_everywhere(data, tmp_path / "some clip.wav", found)


def test_formats_are_named_to_who_brings_another():
    pytest.importorskip("av")
    refuse(
        b"\0\0\0\x20ftypM4A " + bytes(5000), "audio bytes", "WAV", "FLAC", "Ogg", "MP3", "ffmpeg -i"
    )


def test_missing_file_and_directory(tmp_path):
    refuse(tmp_path / "no.wav", str(tmp_path / "no.wav"), "No such file")
    refuse(str(tmp_path), str(tmp_path), "irectory")


@pytest.mark.parametrize("source", [None, 7, io.StringIO("text"), bytearray(b"RIFF"), np.zeros(10)])
def test_other_sources_are_refused(source):
    refuse(source, "audio stream", "expected a path, bytes or binary file")


@pytest.mark.parametrize("rate", [1, 999, 10_000_001, 1_000_000_007])
def test_rate_that_no_sound_has(rate):
    data = bytearray(encode(noise(5000), RATE))
    data[24:28] = struct.pack("<I", rate)  # at 1 Hz these 10 kB would become 320 MB
    refuse(bytes(data), "audio bytes", "1000 to 10000000 Hz", f"found {rate} Hz")


class Unsteady(io.BytesIO):
    """Counts the seeks to before its start."""

    lost = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.lost += offset < 0 and whence == 0
        return super().seek(offset, whence)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_seek_to_nowhere_is_no_traceback(tmp_path, capfd):
    """Of an AIFF cut within its header libsndfile wants what is before its start."""
    data = encode(sine(RATE), RATE, "AIFF")[:36]
    (path := tmp_path / "a.aiff").write_bytes(data)
    stream = Unsteady(data)
    for source in path, data, stream:
        with pytest.raises(ValueError, match="not audio"):
            audio.load_audio(source, RATE)
    assert stream.lost and capfd.readouterr().err == ""


def test_a_stream_seeks_like_a_file(tmp_path):
    """BytesIO would go to its start where a file refuses, and libsndfile read on there."""
    stream, file = io.BytesIO(bytes(100)), tmp_path / "a"
    file.write_bytes(bytes(100))
    with file.open("rb") as real:
        for offset, whence in (50, 0), (-60, 1), (-1, 0), (10, 1), (200, 0), (-3, 2):
            for one in decoding.TolerantStream(stream), decoding.TolerantStream(real):
                one.seek(offset, whence)
            assert stream.tell() == real.tell()
    assert stream.tell() == 97


# files that were cut short


@pytest.mark.parametrize("share", [0.05, 0.5, 0.97])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_16"),
        ("W64", "PCM_16"),
    ],
)
def test_cut_file_is_refused(tmp_path, kind, subtype, share):
    data = encode(sine(RATE, 5) + noise(5 * RATE + 123), RATE, kind, subtype)
    assert len(silently(data)) == 5 * RATE + 123
    path = tmp_path / "cut"
    path.write_bytes(data[: int(share * len(data))])
    refuse(path, str(path))
    refuse(path.read_bytes(), "audio bytes")


@pytest.mark.parametrize("cut", [1, 2, 1001, 60_000])
@pytest.mark.parametrize(
    ("kind", "subtype", "channels", "endian"),
    [
        ("WAV", "PCM_16", 1, "FILE"),
        ("WAV", "PCM_24", 2, "FILE"),
        ("WAV", "FLOAT", 3, "FILE"),
        ("WAVEX", "PCM_U8", 2, "FILE"),
        ("WAV", "PCM_16", 2, "BIG"),
    ],
)
def test_cut_wav_is_loaded_with_a_warning(tmp_path, kind, subtype, channels, endian, cut):
    sound = np.stack([sine(RATE, 4)] * channels, axis=1)
    data = encode(sound, RATE, kind, subtype, endian=endian)
    width = channels * {"PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "FLOAT": 4}[subtype]
    left = len(sound) - -(-cut // width)
    path = tmp_path / "cut.wav"
    path.write_bytes(
        data[:-cut] if len(sound) * width % 2 == 0 else data[: -cut - 1]
    )  # less the pad byte
    with pytest.warns(UserWarning, match=rf"cut\.wav: .* {left} of {len(sound)} samples"):
        waveform = audio.load_audio(path, RATE)
    np.testing.assert_array_equal(waveform, silently(data)[:left])
    with pytest.warns(UserWarning, match="audio bytes: cut short"):
        list(audio.read_blocks(path.read_bytes(), RATE))


def test_cut_wav_of_compressed_samples():
    data = encode(sine(RATE, 5), RATE, "WAV", "IMA_ADPCM")
    with pytest.warns(UserWarning, match="cut short"):
        waveform = audio.load_audio(data[: len(data) // 2], RATE)
    assert len(waveform) == pytest.approx(2.5 * RATE, rel=0.02)


def test_wav_cut_before_its_first_sample():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuse(encode(sine(RATE), RATE)[:44], "audio bytes", "none")


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF, None])
@pytest.mark.parametrize(
    "size", [0, 0xFFFFFFFF, 0xFFFFFFFF - 44, 0x7FFFFFFF - 36, 0x7FFFF000, 0x80000000]
)
def test_wav_from_a_pipe_has_no_length_and_is_whole(riff, size):
    data = bytearray(encode(sine(RATE), RATE))
    whole = silently(bytes(data))
    data[40:44] = struct.pack("<I", size)
    if riff is not None:
        data[4:8] = struct.pack("<I", riff)
    np.testing.assert_array_equal(silently(bytes(data)), whole)


def test_wav_without_samples_but_with_a_comment_has_none():
    comment = b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.45.100\0"
    data = encode(np.zeros(0), RATE)[:44] + b"LIST" + struct.pack("<I", len(comment)) + comment
    refuse(data, "audio bytes", "none")


def test_chunks_after_the_samples_of_a_wav_are_no_samples():
    data = encode(sine(RATE), RATE)
    assert len(silently(data + b"LIST" + struct.pack("<I", 8) + b"INFO1234")) == RATE + 123


@pytest.mark.parametrize(("more", "refused"), [(None, False), (5000, True), (1, True)])
def test_flac_header_without_or_with_a_wrong_length(more, refused):
    data = bytearray(encode(noise(5 * RATE), RATE, "FLAC"))
    total = int.from_bytes(data[18:26], "big")  # the last 36 bits are the number of samples
    total = total & ~(2**36 - 1) if more is None else total + more
    data[18:26] = total.to_bytes(8, "big")
    if refused:
        refuse(bytes(data), "audio bytes", f"found {5 * RATE} of {5 * RATE + more}")
    else:  # as ffmpeg writes it to a pipe
        assert len(silently(bytes(data))) == 5 * RATE
        refuse(bytes(data[: len(data) // 2]), "audio bytes", "damaged")


def test_ogg_with_a_hole_and_with_a_tag_behind():
    data = encode(noise(10 * RATE), RATE, "OGG", "VORBIS")
    pages = [start for start in range(len(data)) if data[start : start + 4] == b"OggS"]
    refuse(data[: pages[4]] + data[pages[6] :], "audio bytes", "expected page 4", "found page 6")
    refuse(data[:-1], "audio bytes", "part of a page")
    refuse(data[: pages[-1] + 10], "audio bytes", "part of a page")
    assert len(silently(data + b"TAG" + bytes(125))) == 10 * RATE


def mp3(sound: np.ndarray, mode: str) -> tuple[bytes, bytes]:
    """Return an MP3, and the same without its first frame, which has its length."""
    data = encode(sound, 44_100, "MP3", "MPEG_LAYER_III", bitrate_mode=mode, compression_level=0.5)
    return data, data[data.index(data[:2], 4) :]


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_mp3_length_is_exact_or_an_estimate(mode):
    quiet, loud = np.zeros(5 * 44_100), 3 * noise(5 * 44_100)
    with_length, without = mp3(np.concatenate([quiet, loud]), mode)
    assert len(silently(with_length, 44_100)) == 10 * 44_100
    assert (
        len(silently(b"ID3\3\0\0\0\0\x07\x76" + bytes(1014) + with_length, 44_100)) == 10 * 44_100
    )
    assert len(silently(without, 44_100)) == pytest.approx(
        10 * 44_100, abs=2 * 1152
    )  # estimated as too long
    refuse(with_length[: len(with_length) // 2], "audio bytes", f"of {10 * 44_100} samples")
    _, without = mp3(
        np.concatenate([loud, quiet]), mode
    )  # libsndfile takes a variable rate for 2 s instead of 10
    if mode == "VARIABLE":
        refuse(without, "audio bytes", "damaged")
    else:
        assert len(silently(without, 44_100)) == pytest.approx(10 * 44_100, abs=2 * 1152)


@pytest.mark.parametrize(("extra", "refused"), [(1, False), (3, True)])
def test_mp3_header_may_count_itself(extra, refused):
    data = bytearray(mp3(noise(44_100), "VARIABLE")[0])
    frames = data.index(b"Xing") + 8
    data[frames : frames + 4] = struct.pack(
        ">I", struct.unpack(">I", data[frames : frames + 4])[0] + extra
    )
    if refused:
        refuse(bytes(data), "audio bytes", "found")
    else:
        assert len(silently(bytes(data), 44_100)) == pytest.approx(44_100, abs=1152)
