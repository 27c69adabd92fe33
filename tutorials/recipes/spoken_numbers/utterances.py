"""Recordings of single digits, and utterances of several digits that are joined from them."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from digits import DIGITS, Digits
from effects import (
    RATE,
    change_speed,
    change_voice,
    colour,
    cut_badly,
    draw_babble,
    draw_buzz,
    draw_music,
    draw_noise,
    draw_tones,
    drop_details,
    limit_band,
    overdrive,
    reverberate,
    reverberate_strongly,
    tilt,
)
from prompts import SPEAKERS

from nanos2t import audio

PARTS = ("train", "dev", "test")

# Voices that are never trained on: they measure how well a model understands strangers.
KEPT_VOICES = {
    "piper-joe",
    "festival-czech-dita",
    "festival-pc-diphone",
    "festival-telugu-nsk-diphone",
}

# What is in utterances without digits, and how often.
OTHER_KINDS = {"words": 0.7, "crowd": 0.1, "music": 0.1, "tones": 0.06, "machine": 0.04}

Item = tuple[Digits, np.ndarray]


def choose_part(speaker: str, index: int) -> str:
    """Return the part of the data that a recording belongs to.

    The indices 0 to 4 of people are the official test split, to which KEPT_VOICES are added; then
    every ninth is for validation, because neighbours in the dataset were recorded one after the
    other.
    """
    if speaker in KEPT_VOICES:
        return "test"
    if index < 5 and not is_synthetic(speaker):
        return "test"
    if index % 9 == 0 and index > 0:
        return "dev"
    return "train"


def parse_speaker(path: Path) -> str:
    """Return the speaker from the name of a word that is no digit, word_{speaker}-{index}.wav."""
    return path.stem.removeprefix("word_").rpartition("-")[0]


def is_synthetic(speaker: str) -> bool:
    """Names of synthetic voices have a hyphen (espeak-en-us-m1), names of people have none."""
    return "-" in speaker


def parse_name(path: Path) -> tuple[int, str, int]:
    """Return digit, speaker and index from the name of a recording."""
    name = re.fullmatch("([0-9])_([^_]+)_([0-9]+)", path.stem)
    if not name:
        raise ValueError(f"{path}: expected {{digit}}_{{speaker}}_{{index}}.wav")
    return int(name[1]), name[2], int(name[3])


def load_clip(path: Path) -> np.ndarray:
    """Read a recording, with the same loudness as all others: (L,)."""
    clip = audio.load_audio(path, RATE)
    loudness = np.sqrt(np.mean(clip**2))
    return clip / (loudness + 1e-4) * 0.1


class Recordings:
    """Spoken digits of equal loudness, float arrays at 8 kHz.

    `clips[speaker][digit]` is a list of them. Only the recordings of `parts` are read, by the
    speakers for whom `is_wanted(speaker)` is True. ValueError: there are none, or a speaker lacks a
    digit.
    """

    def __init__(
        self,
        folders: list[Path],
        *parts: str,
        is_wanted: Callable[[str], bool] = lambda speaker: True,
    ):
        self.clips: dict[str, list[list[np.ndarray]]] = {}
        for path in sorted(
            path for folder in folders for path in Path(folder).glob("[0-9]_*_*.wav")
        ):
            digit, speaker, index = parse_name(path)
            if choose_part(speaker, index) in parts and is_wanted(speaker):
                clips = self.clips.setdefault(speaker, [[] for _ in DIGITS])
                clips[digit].append(load_clip(path))
        self.others: dict[str, list[np.ndarray]] = {}  # words that are no digits
        for path in sorted(path for folder in folders for path in Path(folder).glob("word_*.wav")):
            speaker = parse_speaker(path)
            if ("test" if speaker in SPEAKERS else "train") in parts:
                self.others.setdefault(speaker, []).append(load_clip(path))

        self.check(", ".join(map(str, folders)), " or ".join(parts))
        self.people = [name for name in self.clips if not is_synthetic(name)]
        self.voices = [name for name in self.clips if is_synthetic(name)]

    def check(self, folders: str, parts: str) -> None:
        if not self.clips:
            raise ValueError(
                f"{folders}: no {parts} recordings named {{digit}}_{{speaker}}_{{index}}.wav "
                "of the speakers that are asked for"
            )
        for speaker, clips in self.clips.items():
            missing = [digit for digit, own in zip(DIGITS, clips) if not own]
            if missing:
                raise ValueError(f"{folders}: {speaker} has no {parts} recording of {missing[0]}")


@dataclass(frozen=True)
class Conditions:
    """How much recordings are changed, from not at all (0) to as much as in training (1)."""

    strength: float = 1.0
    people: float = 0.65  # share of utterances by people
    speed: float = 0.2
    pause: float = 0.12  # mean seconds between digits
    longest_pause: float = 0.8
    clean: float = 0.25  # share of utterances without noise
    snr: tuple[float, float] = (3.0, 35.0)
    cut: float = 0.0  # share of recordings cut in the wrong place
    tight: float = 0.0  # share of utterances that begin, and that end, with the word itself

    # For strangers
    empty: float = 0.02  # share of utterances without digits
    mixed: float = 0.0  # share of utterances whose digits come from different speakers
    voice: float = 0.0  # digits are raised by exp(u) in pitch and formants, u in -voice .. voice
    tilt: float = 0.0  # share of utterances with more treble, or more bass
    background: float = 0.0  # share of digits with a noise of their own, which ends with them
    babble: float = 0.0  # share of utterances with other people in the background
    tones: float = 0.0  # share of utterances with music or a machine in the background
    damage: float = 0.0  # share with each of: a large room, a codec, an overdriven microphone
    others: float = 0.0  # share of what has no digit that is other words, or music
    plain: float = 0.0  # share of utterances that are one digit, with little done to it


# No noise (clean=1): `nanos2t train` adds it.
TRAINING = Conditions(strength=0.6, people=0.85, speed=0.08, clean=1.0, cut=0.04)


def draw_utterance(
    digits: Digits, recordings: Recordings, rng: np.random.Generator, conditions: Conditions
) -> np.ndarray:
    """Join recordings of the digits, and change them by the conditions: (L,)."""
    if conditions.others and not digits and rng.random() < conditions.others:
        x = draw_other(recordings, rng)
    else:
        x = np.concatenate(join_takes(digits, recordings, rng, conditions))

    # Another microphone, a room, noise, a telephone.
    if rng.random() < 0.7 * conditions.strength:
        x = colour(x, rng, 6.0)
    if conditions.tilt and rng.random() < conditions.tilt:
        x = tilt(x, rng.uniform(-3, 6))
    if rng.random() < 0.25 * conditions.strength:
        x = reverberate(x, rng)
    if not digits or rng.random() > conditions.clean:
        noise = draw_noise(len(x), rng) * 0.1
        x = x + noise * 10 ** (-rng.uniform(*conditions.snr) / 20)
    if conditions.babble or conditions.tones or conditions.damage:
        x = disturb(x, recordings, rng, conditions)
    if rng.random() < 0.25 * conditions.strength:
        x = limit_band(x, rng.uniform(20, 350), rng.uniform(2800, 4000))
    return audio.normalise(x.astype(np.float32))


def draw_plain(recordings: Recordings, rng: np.random.Generator, conditions: Conditions) -> Item:
    """Draw one digit alone, with or without silence on each side, and noise behind both."""
    digit = int(rng.integers(10))
    speaker = draw_speaker(recordings, rng, conditions)
    speed = np.exp(rng.uniform(-conditions.speed, conditions.speed))
    take = draw_take(speaker[digit], speed, rng, replace(conditions, background=0.0))
    before, after = rng.uniform(0.0, 0.5, 2) * (rng.random(2) < 0.5)
    x = np.concatenate([silence(before), take, silence(after)])
    if rng.random() > conditions.clean:
        x = x + draw_noise(len(x), rng) * 0.1 * 10 ** (-rng.uniform(*conditions.snr) / 20)
    return (digit,), audio.normalise(x.astype(np.float32))


def join_takes(
    digits: Digits, recordings: Recordings, rng: np.random.Generator, conditions: Conditions
) -> list[np.ndarray]:
    """Draw one or several speakers, a recording for each digit, and the silence around them."""
    speaker = draw_speaker(recordings, rng, conditions)
    is_mixed = bool(conditions.mixed) and rng.random() < conditions.mixed

    speed = 1.0
    if conditions.speed:
        speed = np.exp(rng.uniform(-conditions.speed, conditions.speed))
    pause = conditions.pause * rng.choice([0.3, 1.0, 2.5])
    starts_tight = False
    ends_tight = False
    if conditions.tight and digits:
        starts_tight, ends_tight = rng.random(2) < conditions.tight

    # Without digits the utterance is one longer silence.
    longest = 0.5 if digits else 5.0
    parts = [silence(rng.uniform(0.02, longest))]
    for digit in digits:
        if is_mixed:
            speaker = draw_speaker(recordings, rng, conditions)
        parts.append(draw_take(speaker[digit], speed, rng, conditions))
        parts.append(silence(min(rng.exponential(pause), conditions.longest_pause)))
    parts.append(silence(rng.uniform(0.02, 0.5)))

    # Without the silence before the first word, and without the two silences after the last one.
    if starts_tight:
        parts = parts[1:]
    if ends_tight:
        parts = parts[:-2]
    return parts


def draw_speaker(
    recordings: Recordings, rng: np.random.Generator, conditions: Conditions
) -> list[list[np.ndarray]]:
    """Draw a person or a voice, and return the recordings of each digit."""
    is_human = rng.random() < conditions.people
    speakers = recordings.people if is_human else recordings.voices
    speakers = speakers or [*recordings.clips]
    return recordings.clips[speakers[rng.integers(len(speakers))]]


def draw_other(recordings: Recordings, rng: np.random.Generator) -> np.ndarray:
    """Draw speech or music without any digit: (L,)."""
    samples = int(rng.uniform(0.3, 5.0) * RATE)
    kind = rng.choice([*OTHER_KINDS], p=[*OTHER_KINDS.values()])
    if kind == "crowd":
        return draw_crowd(samples, recordings, rng)
    if kind == "words":
        return draw_words(recordings, rng)
    draw = {"music": draw_music, "tones": draw_tones, "machine": draw_buzz}[kind]
    return draw(samples, rng) * 0.1


def draw_words(recordings: Recordings, rng: np.random.Generator) -> np.ndarray:
    """Draw one to four words that are no digits, or digits backwards: (L,)."""
    parts = [silence(rng.uniform(0.0, 0.4))]
    for _ in range(rng.integers(1, 5)):
        if recordings.others and rng.random() < 0.85:
            take = draw_other_word(recordings, rng)
        else:
            # Not nine, which is itself backwards.
            take = draw_any(recordings, rng, 9)[::-1]
        parts.append(change_voice(take, np.exp(rng.uniform(-0.2, 0.2))))
        parts.append(silence(rng.exponential(0.1)))
    return np.concatenate([*parts, silence(rng.uniform(0.0, 0.4))])


def draw_other_word(recordings: Recordings, rng: np.random.Generator) -> np.ndarray:
    """Draw a word that is no digit, from each speaker with the same probability: (L,)."""
    speakers = [*recordings.others.values()]
    words = speakers[rng.integers(len(speakers))]
    return words[rng.integers(len(words))]


def draw_any(recordings: Recordings, rng: np.random.Generator, num_digits: int = 10) -> np.ndarray:
    """Draw a recording of one of the first `num_digits` digits by anyone: (L,)."""
    speakers = [*recordings.clips.values()]
    takes = speakers[rng.integers(len(speakers))][rng.integers(num_digits)]
    return takes[rng.integers(len(takes))]


def draw_crowd(samples: int, recordings: Recordings, rng: np.random.Generator) -> np.ndarray:
    """Draw people and voices who speak at once, and say no digit: (L,)."""
    takes = [draw_any(recordings, rng)[::-1] for _ in range(12)]
    if recordings.others:
        takes += [draw_other_word(recordings, rng) for _ in range(12)]
    return draw_babble(takes, samples, rng) * 0.1


def disturb(
    x: np.ndarray, recordings: Recordings, rng: np.random.Generator, conditions: Conditions
) -> np.ndarray:
    """Put speech into a room with other people or music, and send it through poor equipment."""
    if rng.random() < conditions.damage:
        x = reverberate_strongly(x, rng)
    if rng.random() < conditions.babble:
        babble = draw_crowd(len(x), recordings, rng)
        x = x + babble * 10 ** (-rng.uniform(0, 25) / 20)
    if conditions.tones and rng.random() < conditions.tones:
        draw = (draw_buzz, draw_tones, draw_music)[rng.integers(3)]
        x = x + draw(len(x), rng) * 0.1 * 10 ** (-rng.uniform(0, 25) / 20)
    if rng.random() < conditions.damage:
        x = overdrive(x, rng)
    if rng.random() < conditions.damage:
        x = drop_details(x, rng)
    return x


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * RATE))


def draw_take(
    takes: list[np.ndarray], speed: float, rng: np.random.Generator, conditions: Conditions
) -> np.ndarray:
    """Draw one of a speaker's recordings of a digit, its cut, loudness and speed."""
    take = takes[rng.integers(len(takes))]
    if conditions.cut and rng.random() < conditions.cut:
        next_take = takes[rng.integers(len(takes))]
        take = cut_badly(take, next_take, rng)
    gain = 10 ** (rng.normal(0, 2 * conditions.strength) / 20)
    if conditions.speed:
        take = change_speed(take, speed * np.exp(rng.normal(0, 0.03 * conditions.strength)))
    if conditions.voice:
        take = change_voice(take, np.exp(rng.uniform(-conditions.voice, conditions.voice)))
    if conditions.background and rng.random() < conditions.background:
        level = 10 ** (-rng.uniform(*conditions.snr) / 20)
        take = colour(take, rng, 6.0) + draw_noise(len(take), rng) * 0.1 * level
    return take * gain


def draw_validation_set(
    recordings: Recordings, count: int, seed: int, max_digits: int = 4
) -> list[Item]:
    """Draw `count` numbers by people, equally many of each length, with moderate noise (SNR 15
    to 30 dB).
    """
    conditions = Conditions(strength=0.0, people=1.0, speed=0.0, snr=(15.0, 30.0))
    items = []
    for i in range(count):
        rng = np.random.default_rng((seed, i, 1))
        size = i % max_digits + 1
        smallest = 0 if size == 1 else 1
        first = rng.integers(smallest, 10)
        others = rng.integers(0, 10, size - 1)
        digits = tuple(int(digit) for digit in (first, *others))
        items.append((digits, draw_utterance(digits, recordings, rng, conditions)))
    return items
