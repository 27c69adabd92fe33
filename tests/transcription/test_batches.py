# pytest tests/transcription/test_batches.py
"""SpeechToText.transcribe_many: batches, order, failures and threads change no result."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import (
    RATE,
    SOUNDS,
    save_tiny,
    write,
)
from helpers.transcripts import assert_same, load_bundled

import nanos2t
from nanos2t.transcription import recordings, transcriber
from nanos2t.transcription.results import Result
from nanos2t.transcription.transcriber import SpeechToText


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"words": True, "language": "en"},
        {"num_beams": 3, "num_return_sequences": 3, "early_stopping": True},
        {"num_beams": 2, "words": True},
    ],
)
def test_the_batch_changes_nothing(stt: SpeechToText, options: dict):
    alone = [stt.transcribe(waveform, sample_rate=RATE, **options) for waveform in SOUNDS]
    assert (
        len({result.text for result in alone}) > 5
        and len({len(result.tokens) for result in alone}) > 1
    )
    for size in 2, 3, 8, 100:
        for one, other in zip(
            alone, stt.transcribe_many(SOUNDS, size, sample_rate=RATE, **options), strict=True
        ):
            assert_same(one, other)


def test_the_batch_changes_nothing_of_the_bundled_model():
    sounds = [SOUNDS[i] for i in (1, 0, 2, 3)] + [np.zeros(500, np.float32)]
    options = {"sample_rate": RATE, "language": "de", "words": True}
    alone = [load_bundled().transcribe(waveform, **options) for waveform in sounds]
    for one, other in zip(alone, load_bundled().transcribe_many(sounds, 5, **options), strict=True):
        assert_same(one, other)


def test_sources_are_read_as_they_are_needed(stt: SpeechToText):
    """One at a time if the batch size is 1; else some batches ahead, to be sorted by length."""
    read = []

    def sources():
        for waveform in SOUNDS[:7]:
            read.append(len(read))
            yield waveform

    results = stt.transcribe_many(sources(), 1, sample_rate=RATE)
    assert read == []
    for count in 1, 2, 3:
        next(results)
        assert len(read) == count
    read.clear()
    results = stt.transcribe_many(sources(), 2, sample_rate=RATE)
    next(results)
    assert len(read) == 4
    next(results), next(results), next(results)
    assert len(read) == 4
    assert len(list(results)) == 3 and list(stt.transcribe_many([])) == []


def test_batches_are_of_similar_length(stt: SpeechToText, monkeypatch):
    whole, batches = SpeechToText.transcribe_batch, []

    def spy(self, waveforms, call):
        batches.append([len(waveform) for waveform in waveforms])
        return whole(self, waveforms, call)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", spy)
    assert len(list(stt.transcribe_many(SOUNDS, 3, sample_rate=RATE))) == len(SOUNDS)
    lengths = [length for batch in batches for length in batch]
    assert lengths == sorted(map(len, SOUNDS), reverse=True) and list(map(len, batches)) == [
        3,
        3,
        2,
    ]


def test_memory_is_given_back_after_many_pieces(stt: SpeechToText, monkeypatch):
    asked = []
    monkeypatch.setattr(transcriber, "release_memory", lambda: asked.append(1))
    stt.transcribe(SOUNDS[0], sample_rate=RATE)
    list(stt.transcribe_many(SOUNDS * 2, 2, sample_rate=RATE))
    assert asked == []
    list(stt.transcribe_many(SOUNDS * 4, 4, sample_rate=RATE))
    assert asked == [1, 1]
    monkeypatch.undo()
    assert recordings.release_memory() is None
    monkeypatch.setattr(
        recordings.ctypes, "CDLL", lambda name: object()
    )  # a system that has no such thing
    assert recordings.release_memory() is None


def test_one_that_fails(stt: SpeechToText, tmp_path: Path):
    """It raises when its turn comes, or stands where its result would stand."""
    good, bad = write(tmp_path / "good.wav", SOUNDS[1]), tmp_path / "none.wav"
    results = stt.transcribe_many([good, good, bad, good], 3)
    assert str(next(results)) == str(next(results)) == str(stt.transcribe(good))
    with pytest.raises(ValueError, match=r"none\.wav"):
        next(results)
    for size in 1, 2, 4:
        outcomes = list(stt.transcribe_many([bad, good, bad, bad, good], size, return_errors=True))
        assert [type(outcome) for outcome in outcomes] == [
            ValueError,
            Result,
            ValueError,
            ValueError,
            Result,
        ]
        assert str(outcomes[1]) == str(outcomes[4]) == str(stt.transcribe(good))


def test_want_of_memory_fails_one_batch(stt: SpeechToText, monkeypatch):
    whole = SpeechToText.transcribe_batch

    def small(self, waveforms, call):
        if any(len(waveform) > RATE for waveform in waveforms):
            raise RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return whole(self, waveforms, call)

    monkeypatch.setattr(SpeechToText, "transcribe_batch", small)
    outcomes = list(stt.transcribe_many(SOUNDS, 2, sample_rate=RATE, return_errors=True))
    failed = [isinstance(outcome, ValueError) for outcome in outcomes]
    # Sorted by length, the second of the first four shares a batch with the fourth, and of the
    # others the seventh with the sixth.
    assert failed == [False, True, False, True, False, True, True, False]
    with pytest.raises(ValueError, match="not enough memory"):
        list(stt.transcribe_many(SOUNDS, 1, sample_rate=RATE))
    monkeypatch.setattr(
        SpeechToText, "transcribe_batch", lambda *_: torch.zeros(2) @ torch.zeros(3)
    )
    with pytest.raises(RuntimeError):
        list(stt.transcribe_many(SOUNDS, sample_rate=RATE, return_errors=True))


@pytest.mark.parametrize("size", [0, -1, "8", 0.5, True, float("nan"), None])
def test_a_batch_has_a_size(stt: SpeechToText, size: int):
    with pytest.raises(ValueError, match=f"batch_size is {re.escape(repr(size))}"):
        next(stt.transcribe_many(SOUNDS, size, sample_rate=RATE))


@pytest.mark.parametrize("sources", ["a.wav", b"RIFF", Path("a.wav")])
def test_one_file_is_no_list_of_files(stt: SpeechToText, sources):
    with pytest.raises(ValueError, match="sources: found .*, expected a list of files"):
        next(stt.transcribe_many(sources))


def test_threads_share_a_model(stt: SpeechToText, tmp_path: Path):
    """Each asks for something else; a second model that is loaded meanwhile disturbs none."""
    other, failures = save_tiny(tmp_path, seed=7), []
    second = nanos2t.load(other, dtype="float64")
    wishes = [
        {"language": "en"},
        {"language": "de", "num_beams": 3},
        {"words": True},
        {"max_length": 5},
    ]
    wishes = [{"sample_rate": RATE, **wish} for wish in wishes]
    expected = [[stt.transcribe(waveform, **wish) for waveform in SOUNDS] for wish in wishes]
    of_second = [second.transcribe(waveform, sample_rate=RATE) for waveform in SOUNDS]
    assert len({tuple(map(str, results)) for results in [*expected, of_second]}) == 5

    def work(number: int) -> None:
        try:
            order = [(i + number) % len(SOUNDS) for i in range(len(SOUNDS))]
            new, wish = nanos2t.load(other, dtype="float64"), wishes[number]
            for i in order:
                assert_same(new.transcribe(SOUNDS[i], sample_rate=RATE), of_second[i])
                assert_same(stt.transcribe(SOUNDS[i], **wish), expected[number][i])
            actual = stt.transcribe_many([SOUNDS[i] for i in order], 3, **wish)
            for result, i in zip(actual, order, strict=True):
                assert_same(result, expected[number][i])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
