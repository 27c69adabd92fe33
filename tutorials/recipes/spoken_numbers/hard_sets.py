"""Sets of utterances that measure a model in conditions that training never had.

Everything is drawn from fixed seeds, from recordings that training never used. "People" are those
of the training, "strangers" people and voices that are kept from it. In most sets each digit of a
number is by another speaker, so that nothing in a recording helps with the next one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import soxr
from disturbances import (
    add_noise,
    clip_peaks,
    code_gsm,
    code_opus,
    draw_chords,
    draw_hum,
    draw_white,
    join_babble,
    make_room,
    quantise,
    speak_sentences,
)
from effects import RATE
from utterances import Item, Recordings

SNRS = (30, 20, 10, 5)
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
Clips = dict[str, list[list[np.ndarray]]]  # clips[speaker][digit], as in Recordings


@dataclass(frozen=True)
class HardSet:
    """A condition, and its utterances with the digits that are said in them."""

    condition: str
    items: list[Item]


def join_digits(
    clips: Clips,
    rng: np.random.Generator,
    count: int,
    pause: tuple[float, float] = (0.0, 1.0),
    is_mixed: bool = True,
) -> Item:
    """Join recordings of `count` random digits, with pauses between `pause` seconds.

    There are 0.2 s of silence at both ends. With `is_mixed` each digit is by another speaker.
    """
    digits = tuple(int(digit) for digit in rng.integers(0, 10, count))
    names = sorted(clips)
    order = rng.permutation(len(names))
    silence = np.zeros(RATE // 5)
    parts = [silence]
    for i, digit in enumerate(digits):
        speaker = names[order[i % len(names)]] if is_mixed else names[order[0]]
        takes = clips[speaker][digit]
        parts.append(takes[rng.integers(len(takes))])
        if i < count - 1:
            parts.append(np.zeros(int(rng.uniform(*pause) * RATE)))
    return digits, np.concatenate([*parts, silence])


def draw_set(
    condition: str,
    clips: Clips,
    count: int,
    change: Change | None = None,
    **options,
) -> HardSet:
    """Draw numbers of one to four digits, as many of each length, and change each by `change`."""
    items = []
    for i in range(count):
        # The numbers are the same in all conditions: their differences are those of the conditions.
        digits, x = join_digits(clips, np.random.default_rng((99, i)), i % 4 + 1, **options)
        if change:
            x = change(x, np.random.default_rng((99, i, 1)))
        items.append((digits, x.astype(np.float32)))
    return HardSet(condition, items)


# Conditions


def draw_speaker_sets(people: Clips, strangers: Recordings | None, count: int) -> Iterator[HardSet]:
    """Who speaks, and with how long pauses."""
    yield draw_set("people, one in each number", people, count, is_mixed=False)
    for pause in (0.0, 0.25, 1.0):
        condition = f"people, another for each digit, pauses of {pause:g} s"
        yield draw_set(condition, people, count, pause=(pause, pause))
    yield draw_set("people, another for each digit, pauses of 0 to 1 s", people, count)
    if strangers is None:
        return

    unknown = {name: strangers.clips[name] for name in strangers.people}
    if unknown:
        yield draw_set("unknown people, one in each number", unknown, count, is_mixed=False)
        yield draw_set("unknown people, another for each digit", unknown, count)
    for name in sorted(strangers.people):
        own = {name: strangers.clips[name]}
        yield draw_set(f"a person who is unknown: {name}", own, count, is_mixed=False)
    for name in sorted(strangers.voices):
        own = {name: strangers.clips[name]}
        yield draw_set(f"a voice kept from training: {name}", own, count, is_mixed=False)


def draw_disturbed_sets(
    people: Clips, sentences: list[np.ndarray], count: int
) -> Iterator[HardSet]:
    """The people in turns, with noises, rooms, codecs and at other levels."""
    draw = partial(draw_set, clips=people, count=count)
    noises = {
        "white noise": draw_white,
        "babble": partial(join_babble, sentences),
        "hum": draw_hum,
        "music": draw_chords,
    }
    for name, draw_noise in noises.items():
        for snr in SNRS:
            change = partial(change_with_noise, draw_noise=draw_noise, snr=snr)
            yield draw(f"{name}, {snr} dB", change=change)

    for seconds in (0.3, 0.6, 0.9):
        rooms = [make_room(seconds, np.random.default_rng((7, i))) for i in range(8)]
        yield draw(f"a room with {seconds:g} s of echo", change=partial(change_room, rooms=rooms))

    yield draw("GSM 06.10", change=lambda x, rng: code_gsm(x))
    yield draw("Opus, 12 kbit/s", change=lambda x, rng: code_opus(x))
    yield draw("44.1 kHz and back", change=change_rate)
    for decibels in (6, 12, 20):
        condition = f"peaks cut off {decibels} dB below the highest"
        yield draw(condition, change=partial(clip_peaks_of, decibels=decibels))
    for decibels in (0, 20, 40):
        condition = f"16 bits, the peak at {-decibels} dBFS"
        yield draw(condition, change=partial(quantise_to, decibels=decibels))


def change_with_noise(
    x: np.ndarray, rng: np.random.Generator, draw_noise, snr: float
) -> np.ndarray:
    return add_noise(x, draw_noise(len(x), rng), snr)


def change_room(x: np.ndarray, rng: np.random.Generator, rooms: list[np.ndarray]) -> np.ndarray:
    return np.convolve(x, rooms[rng.integers(len(rooms))])[: len(x)]


def change_rate(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return soxr.resample(soxr.resample(x, RATE, 44100), 44100, RATE)


def clip_peaks_of(x: np.ndarray, rng: np.random.Generator, decibels: float) -> np.ndarray:
    return clip_peaks(x, decibels)


def quantise_to(x: np.ndarray, rng: np.random.Generator, decibels: float) -> np.ndarray:
    return quantise(x, decibels)


def draw_empty_sets(
    sentences: list[np.ndarray], strangers: Recordings | None, count: int
) -> Iterator[HardSet]:
    """No digits: the right text is empty."""
    kinds = {
        "silence": lambda samples, rng: np.zeros(samples),
        "white noise": draw_white,
        "hum": draw_hum,
        "babble": partial(join_babble, sentences),
        "music": draw_chords,
    }
    for name, draw in kinds.items():
        waveforms = []
        for i in range(count):
            rng = np.random.default_rng((98, i))
            waveforms.append(draw(int(rng.uniform(0.3, 4.0) * RATE), rng))
        yield make_empty_set(name, waveforms)
    yield make_empty_set("other words", sentences)
    if strangers is not None and strangers.others:
        words = [word for own in strangers.others.values() for word in own]
        yield make_empty_set("other words by a person", words)


def make_empty_set(condition: str, waveforms: list[np.ndarray]) -> HardSet:
    items: list[Item] = [((), x.astype(np.float32)) for x in waveforms]
    return HardSet(f"no digits: {condition}", items)


def draw_hard_sets(people: Clips, strangers: Recordings | None, count: int) -> Iterator[HardSet]:
    """Yield all sets, one after the other."""
    sentences = speak_sentences()
    yield from draw_speaker_sets(people, strangers, count)
    yield from draw_disturbed_sets(people, sentences, count)
    yield from draw_empty_sets(sentences, strangers, count)
