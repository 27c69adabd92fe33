"""Recordings of single digits, and utterances of several digits that are joined from them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from digits import DIGITS, Digits
from effects import (
    RATE,
    change_speed,
    colour,
    cut_badly,
    draw_noise,
    limit_band,
    reverberate,
)

from nanos2t import audio

PARTS = ("train", "dev", "test")
Item = tuple[Digits, np.ndarray]


def choose_part(speaker: str, index: int) -> str:
    """Return the part of the data that a recording belongs to.

    The indices 0 to 4 of people are the official test split; then every ninth is for validation,
    because neighbours in the dataset were recorded one after the other.
    """
    if index < 5 and not is_synthetic(speaker):
        return "test"
    if index % 9 == 0 and index > 0:
        return "dev"
    return "train"


def is_synthetic(speaker: str) -> bool:
    """Names of synthetic voices have a hyphen (espeak-en-us-m1), names of people have none."""
    return "-" in speaker


def parse_name(path: Path) -> tuple[int, str, int]:
    """Return digit, speaker and index from the name of a recording."""
    name = re.fullmatch("([0-9])_([^_]+)_([0-9]+)", path.stem)
    if not name:
        raise ValueError(f"{path}: expected {{digit}}_{{speaker}}_{{index}}.wav")
    return int(name[1]), name[2], int(name[3])


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
        for path in sorted(path for folder in folders for path in Path(folder).glob("*_*_*.wav")):
            digit, speaker, index = parse_name(path)
            if choose_part(speaker, index) in parts and is_wanted(speaker):
                clip = audio.load_audio(path, RATE)
                loudness = np.sqrt(np.mean(clip**2))
                clips = self.clips.setdefault(speaker, [[] for _ in DIGITS])
                clips[digit].append(clip / (loudness + 1e-4) * 0.1)

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
    clean: float = 0.25  # share of utterances without noise
    snr: tuple[float, float] = (3.0, 35.0)
    cut: float = 0.0  # share of recordings cut in the wrong place
    tight: float = 0.0  # share of utterances that begin, and that end, with the word itself


# No noise (clean=1): `nanos2t train` adds it.
TRAINING = Conditions(strength=0.6, people=0.85, speed=0.08, clean=1.0, cut=0.04)


def draw_utterance(
    digits: Digits, recordings: Recordings, rng: np.random.Generator, conditions: Conditions
) -> np.ndarray:
    """Join recordings of the digits by one speaker, and change them by the conditions: (L,)."""
    parts = join_takes(digits, recordings, rng, conditions)
    x = np.concatenate(parts)

    # Another microphone, a room, noise, a telephone.
    if rng.random() < 0.7 * conditions.strength:
        x = colour(x, rng, 6.0)
    if rng.random() < 0.25 * conditions.strength:
        x = reverberate(x, rng)
    if not digits or rng.random() > conditions.clean:
        noise = draw_noise(len(x), rng) * 0.1
        x = x + noise * 10 ** (-rng.uniform(*conditions.snr) / 20)
    if rng.random() < 0.25 * conditions.strength:
        x = limit_band(x, rng.uniform(20, 350), rng.uniform(2800, 4000))
    return audio.normalise(x.astype(np.float32))


def join_takes(
    digits: Digits, recordings: Recordings, rng: np.random.Generator, conditions: Conditions
) -> list[np.ndarray]:
    """Draw a speaker, a recording for each digit, and the silence around them."""
    is_human = rng.random() < conditions.people
    speakers = recordings.people if is_human else recordings.voices
    speakers = speakers or [*recordings.clips]
    speaker = recordings.clips[speakers[rng.integers(len(speakers))]]

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
        parts.append(draw_take(speaker[digit], speed, rng, conditions))
        parts.append(silence(min(rng.exponential(pause), 0.8)))
    parts.append(silence(rng.uniform(0.02, 0.5)))

    # Without the silence before the first word, and without the two silences after the last one.
    if starts_tight:
        parts = parts[1:]
    if ends_tight:
        parts = parts[:-2]
    return parts


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
