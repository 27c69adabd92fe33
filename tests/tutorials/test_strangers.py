# pytest tests/tutorials/test_strangers.py
"""What disturbs speech in training, and which recordings utterances are drawn from."""

import itertools
import random
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import disturbances
import neural_voices
import numpy as np
import pytest
import soundfile
import utterances
from accents import ACCENTS
from digits import DIGITS, draw_digits
from effects import (
    RATE,
    change_voice,
    draw_babble,
    draw_buzz,
    draw_music,
    draw_tones,
    drop_details,
    overdrive,
    reverberate_strongly,
    stretch_time,
    tilt,
)
from helpers.speakers import make_clips
from other_words import OTHER_WORDS
from prompts import SPEAKERS
from utterances import (
    KEPT_VOICES,
    OTHER_KINDS,
    Conditions,
    Recordings,
    choose_part,
    draw_crowd,
    draw_utterance,
    draw_words,
    join_takes,
)

TONE = np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)
PLAIN = Conditions(strength=0.0, people=1.0, speed=0.0, clean=1.0)


def find_pitch(x: np.ndarray) -> float:
    """The loudest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(x * np.hanning(len(x)), 8 * RATE))
    return float(np.argmax(spectrum)) / 8


def make_recordings(speakers: str) -> SimpleNamespace:
    return SimpleNamespace(clips=make_clips(speakers), people=[*speakers], voices=[], others={})


def count_samples(recordings: Recordings) -> dict[str, list[int]]:
    return {name: [len(word) for word in words] for name, words in recordings.others.items()}


# Changes of training


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_stretching_keeps_the_pitch_and_a_changed_voice_the_length(factor: float):
    longer = stretch_time(TONE, factor)
    assert len(longer) == round(RATE * factor)
    assert find_pitch(longer) == pytest.approx(400, abs=2)
    inner = longer[400:-400]
    assert 0.6 < inner.std() < 0.8  # windows that cancel each other would be weaker

    higher = change_voice(TONE, factor)
    assert abs(len(higher) - RATE) < 3
    assert find_pitch(higher) == pytest.approx(400 * factor, abs=3)


def test_babble_and_tones_fill_what_is_asked_for():
    takes = [np.random.default_rng(i).standard_normal(900) for i in range(4)]
    for seed, samples in itertools.product(range(5), (300, 9000)):
        rng = np.random.default_rng(seed)
        babble = draw_babble(takes, samples, rng)
        tones = draw_tones(samples, rng)
        buzz = draw_buzz(samples, rng)
        for x in (babble, tones, buzz):
            assert len(x) == samples and x.std() == pytest.approx(1, abs=1e-3)


def test_a_crowd_says_digits_backwards_and_other_words():
    # A take that rises to its end: backwards it falls.
    recordings = make_recordings("a")
    for takes in recordings.clips["a"]:
        takes[0] = np.arange(1.0, 5001.0)
    falling = draw_crowd(4000, recordings, np.random.default_rng(0))
    assert np.diff(falling).mean() < 0
    assert falling.std() == pytest.approx(0.1, abs=1e-3)
    recordings.others = {"b": [np.tile([5000.0, -5000.0], 2000)]}
    both = draw_crowd(4000, recordings, np.random.default_rng(0))
    assert np.abs(np.diff(both)).mean() > 10 * np.abs(np.diff(falling)).mean()


def test_music_is_in_time():
    num_melodies = 0
    for seed in range(60):
        x = draw_music(4 * RATE, np.random.default_rng(seed))
        assert len(x) == 4 * RATE and np.isfinite(x).all()
        assert not x.any() or x.std() == pytest.approx(1, abs=1e-3)

        # After a rest a note begins at a multiple of the beat, the first number that is drawn.
        beat = int(np.random.default_rng(seed).uniform(0.1, 0.8) * RATE)
        starts = np.flatnonzero(~x[:-2].astype(bool) & x[1:-1].astype(bool) & x[2:].astype(bool))
        starts = [i for i in starts if not x[max(0, i - 40) : i].any()]
        num_melodies += len(starts) > 1
        phases = {(i + 1) % beat for i in starts}
        assert max(phases, default=0) - min(phases, default=0) <= 2
    assert num_melodies > 5


def test_equipment_changes_speech_but_not_beyond_recognition():
    rng = np.random.default_rng(3)
    x = np.sin(np.cumsum(rng.uniform(0.2, 0.8, 6000))) * np.hanning(6000)
    for change, least in ((drop_details, 0.9), (overdrive, 0.8), (reverberate_strongly, 0.1)):
        for seed in range(4):
            y = change(x, np.random.default_rng(seed))
            assert len(y) == len(x) and np.isfinite(y).all()
            assert least < np.corrcoef(x, y)[0, 1] < 0.9999
    # A room still sounds when the speech has ended.
    pulse = np.zeros(4000)
    pulse[10] = 1.0
    tail = reverberate_strongly(pulse, np.random.default_rng(1))[500:1000]
    assert tail.std() > 1e-3


def test_a_tilt_raises_each_octave_above_the_one_below():
    times = np.arange(RATE) / RATE
    for decibels in (-3.0, 6.0):
        for hertz in (500, 1000, 2000):
            level = tilt(np.sin(2 * np.pi * hertz * times), decibels)[100:-100].std()
            expected = decibels * np.log2((hertz + 50) / 1000)
            assert 20 * np.log10(level * 2**0.5) == pytest.approx(expected, abs=0.1)
    recordings = make_recordings("a")
    for takes in recordings.clips["a"]:
        takes[0] = np.random.default_rng(1).standard_normal(900)
    plain, tilted = (
        draw_utterance((1, 2), recordings, np.random.default_rng(5), conditions)
        for conditions in (PLAIN, replace(PLAIN, tilt=1.0))
    )
    assert len(plain) == len(tilted) and not np.allclose(plain, tilted)


def test_a_machine_sounds_the_same_all_the_time():
    for seed in range(5):
        x = draw_buzz(2 * RATE, np.random.default_rng(seed))
        first, second = np.abs(np.fft.rfft(x.reshape(2, RATE) * np.hanning(RATE)))
        assert np.corrcoef(first, second)[0, 1] > 0.99


# Utterances


def speakers_of(parts: list[np.ndarray]) -> list[float]:
    return [float(part[0]) for part in parts if part.any()]


def test_digits_of_a_number_come_from_several_speakers_if_asked_for():
    recordings = make_recordings("abcdef")
    digits = (1, 2, 3, 4)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        alone = speakers_of(join_takes(digits, recordings, rng, PLAIN))
        assert len(alone) == 4 and len(set(alone)) == 1
    mixed = replace(PLAIN, mixed=1.0)
    counts = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts.add(len(set(speakers_of(join_takes(digits, recordings, rng, mixed)))))
    assert counts >= {2, 3, 4}


def test_a_background_of_its_own_begins_and_ends_with_a_digit():
    recordings = make_recordings("a")
    noisy = replace(PLAIN, background=1.0, snr=(10.0, 10.0))
    for seed in range(5):
        parts = join_takes((7, 7), recordings, np.random.default_rng(seed), noisy)
        sounding = [part for part in parts if part.any()]
        assert len(sounding) == 2
        assert all(part.std() > 0.01 for part in sounding)  # constant without a noise
        assert not any(part.any() for part in parts if len(part) != 107)


def test_music_and_machines_are_added_at_up_to_the_level_of_the_speech():
    recordings = make_recordings("a")
    loud = replace(PLAIN, tones=1.0)
    ratios = []
    for seed in range(30):
        plain = draw_utterance((7, 7), recordings, np.random.default_rng(seed), PLAIN)
        x = draw_utterance((7, 7), recordings, np.random.default_rng(seed), loud)
        assert len(x) == len(plain)
        ratios.append(1 - np.corrcoef(plain, x)[0, 1])
    # Music may rest as long as a short utterance.
    assert np.mean(np.array(ratios) > 1e-5) > 0.8 and max(ratios) > 1e-3


def test_pauses_are_as_long_as_the_longest():
    recordings = make_recordings("a")
    for longest in (0.3, 1.2):
        slow = replace(PLAIN, pause=5.0, longest_pause=longest)
        parts = join_takes((7, 7), recordings, np.random.default_rng(0), slow)
        assert len(parts[2]) == int(longest * RATE)


def test_what_has_no_digits_is_silence_words_or_music():
    recordings = make_recordings("a")
    recordings.others = {"b": [np.linspace(-1, 1, 800)]}
    others = replace(PLAIN, others=1.0)
    for seed in range(30):
        x = draw_utterance((), recordings, np.random.default_rng(seed), others)
        assert len(x) > 100 and np.isfinite(x).all() and x.std() == pytest.approx(1, abs=1e-2)
    shares = [
        np.mean([draw_digits(np.random.default_rng(seed), 4, empty) == () for seed in range(800)])
        for empty in (0.0, 0.3)
    ]
    assert shares[0] == 0 and shares[1] == pytest.approx(0.3, abs=0.05)


def test_words_without_digits_are_others_and_digits_backwards_but_nine(monkeypatch):
    monkeypatch.setattr(utterances, "change_voice", lambda x, factor: x)
    recordings = make_recordings("a")
    for digit, takes in enumerate(recordings.clips["a"]):
        takes[0] = np.full(900, 1.0 + digit)
    recordings.others = {"b": [np.full(900, 50.0)], "c": 30 * [np.full(900, 60.0)]}
    counts = Counter()
    for seed in range(400):
        counts.update(np.unique(draw_words(recordings, np.random.default_rng(seed))))
    assert {0.0, 1.0, 9.0, 50.0, 60.0} <= {*counts} and 10.0 not in counts

    # Who says more words is not heard more often.
    assert 0.8 < counts[50.0] / counts[60.0] < 1.25
    assert sum(OTHER_KINDS.values()) == pytest.approx(1)


def test_a_plain_digit_is_one_recording_with_or_without_silence_around_it():
    recordings = make_recordings("ab")
    draw = partial(utterances.draw_plain, recordings)
    sides = Counter()
    for seed in range(80):
        (digit,), x = draw(np.random.default_rng(seed), conditions=replace(PLAIN, background=1.0))
        loudest = np.flatnonzero(x == x.max())
        assert len(x) == 100 + digit or len(loudest) == 100 + digit
        sides[bool(loudest[0]), bool(loudest[-1] < len(x) - 1)] += 1
    assert len(sides) == 4 and all(10 < count < 30 for count in sides.values())

    # As in training: the speed is changed, too, and there may be noise behind word and silence.
    digits, x = draw(np.random.default_rng(0), conditions=replace(PLAIN, clean=0.0))
    assert len(digits) == 1 and len(set(x)) > 90
    changed = replace(PLAIN, speed=0.2)
    lengths = [len(draw(np.random.default_rng(seed), conditions=changed)[1]) for seed in range(40)]
    assert min(lengths) < 95 and max(lengths) > 1000


def test_babble_and_damage_are_drawn_from_the_recordings():
    recordings = make_recordings("ab")
    for clips in recordings.clips.values():
        for takes in clips:
            takes[0] = np.random.default_rng(len(takes[0])).standard_normal(900)
    for change in ({"babble": 1.0}, {"damage": 1.0}, {"voice": 0.2}):
        plain, changed = (
            draw_utterance((1, 2), recordings, np.random.default_rng(5), conditions)
            for conditions in (PLAIN, replace(PLAIN, **change))
        )
        assert np.isfinite(changed).all()
        assert len(plain) != len(changed) or not np.allclose(plain, changed)


def test_kept_voices_and_other_words_are_not_trained_on_as_digits(tmp_path: Path):
    assert all(choose_part(voice, 7) == "test" for voice in KEPT_VOICES)
    for digit in range(10):
        for voice in ("tts-1", "piper-joe"):
            soundfile.write(tmp_path / f"{digit}_{voice}_1.wav", TONE, RATE)
    soundfile.write(tmp_path / "word_espeak-m1-3.wav", TONE[:500], RATE)
    trained = Recordings([tmp_path], "train")
    assert [*trained.clips] == ["tts-1"] and count_samples(trained) == {"espeak-m1": [500]}
    assert [*Recordings([tmp_path], "test").clips] == ["piper-joe"]
    assert not Recordings([tmp_path], "test").others

    # People of prompts.py, too, and what they say besides.
    assert all(choose_part(speaker, 0) == "test" for speaker in SPEAKERS)
    soundfile.write(tmp_path / "word_allison-3.wav", TONE[:700], RATE)
    assert count_samples(Recordings([tmp_path], "test")) == {"allison": [700]}
    assert count_samples(Recordings([tmp_path], "train")) == {"espeak-m1": [500]}


# Voices


def test_every_accent_has_ten_words_and_other_words_have_no_digit():
    assert all(len(words) == len(set(words)) == 10 for words in ACCENTS.values())
    spoken = " ".join((*OTHER_WORDS, *disturbances.SENTENCES)).split()
    assert not set(spoken) & {*DIGITS, "oh", "to", "too", "for", "won", "ate"} - {"to"}
    assert not set(OTHER_WORDS) & set(disturbances.SENTENCES)


def test_a_mixture_of_voices_is_spoken_with_one_style(monkeypatch):
    weights = [neural_voices.draw_weights(random.Random(seed), 5) for seed in range(50)]
    assert all(w.sum() == pytest.approx(1) for w in weights)
    assert len({round(w[0], 6) for w in weights}) == 50
    model = neural_voices.Kokoro.__new__(neural_voices.Kokoro)
    model.vocabulary = {symbol: i for i, symbol in enumerate("abc", start=1)}
    model.voices = np.arange(5 * 9 * 4, dtype=float).reshape(5, 9, 1, 4)
    asked = {}
    model.session = SimpleNamespace(run=lambda names, inputs: [asked.update(inputs) or np.ones(3)])
    model.speak("cab", np.array([0, 1, 0, 0, 0]), 0.9)
    assert asked["tokens"].tolist() == [[0, 3, 1, 2, 0]]
    assert np.array_equal(asked["style"], model.voices[1, 2]) and asked["speed"] == [
        np.float32(0.9)
    ]
