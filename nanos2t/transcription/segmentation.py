"""Long audio as pieces short enough for the model, cut where it is quietest; long silence is left out.
    blocks (L,), (L,) ... -> loudness (F,) -> threshold -> sounds -> stretches of them -> divide: pieces (L,)
Held is only what is undecided: a block and a piece. L samples, F frames of 10 ms; decibels of full scale."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

FRAME = 0.01  # seconds
BRIEF = 2.0  # seconds of a recording that is too short to tell a voice from its background: it is one piece
GAP = 10  # frames of quiet between two sounds
CLICK = 7  # frames of a sound that is too short for a word
WORD = 50  # frames of a word: a longer sound counts as several
LIFT = 6.0  # decibels from the background to what is sound, at most
CONTRAST = (
    10.0  # decibels from the background to the loudest: with less it is noise, a hum or nothing
)
SILENCE = -85.0  # decibels: below is what the last bit of 16 does


@dataclass(frozen=True)
class Limits:
    """What a model hears at a time: `seconds`, `sounds` with quiet between; `pause` frames of it end it."""

    seconds: float = 30.0
    sounds: int = 10**9
    pause: int = 100


def split_recording(
    blocks: Iterable[np.ndarray], rate: int, limits: Limits
) -> Iterator[tuple[int, np.ndarray]]:
    """The first sample of each piece of a recording, and the piece (L,), in order, without overlap; at last
    the recording's length, and an empty piece. One of less than BRIEF seconds is a piece as it is.
    `blocks` (L,): the recording at `rate` Hz, some seconds each: loud is louder than the rest of a block."""
    held, first, hop = np.zeros(0, np.float32), 0, round(FRAME * rate)
    for block in blocks:
        held = np.concatenate([held, block])
        if len(held) < BRIEF * rate:
            continue
        undecided = len(held) // hop - limits.pause  # what ends behind it may go on
        for start, end in find_pieces(loudness(held, hop), limits):
            if end > undecided:
                undecided = min(start, undecided)
                break
            yield first + start * hop, held[start * hop : end * hop].copy()
        held, first = held[undecided * hop :], first + undecided * hop
    spans = (
        find_pieces(loudness(held, hop), limits)
        if first or len(held) >= BRIEF * rate
        else [(0, len(held))]
    )
    for start, end in spans:
        yield first + start * hop, held[start * hop : end * hop]
    yield first + len(held), held[:0]


def loudness(waveform: np.ndarray, hop: int) -> np.ndarray:
    """Decibels of each frame of a waveform (L,), of which the last may be shorter: (F,).
    Of what moves within a frame, its variance: an offset or a rumble below 100 Hz hardly counts."""
    padded = np.pad(waveform, (0, -len(waveform) % hop), mode="edge")
    return 10 * np.log10(padded.reshape(-1, hop).var(axis=1) + 1e-12)


def smooth(x: np.ndarray, frames: int) -> np.ndarray:
    """The mean of `frames` frames around each of (F,); beyond the ends it goes on as it ended."""
    padded = np.pad(x, (frames // 2, frames - 1 - frames // 2), mode="edge")
    return np.convolve(padded, np.full(frames, 1 / frames), mode="valid")


def threshold(decibels: np.ndarray) -> float:
    """How loud sound is at least, above the background of (F,): infinite if all of it is background."""
    heard = decibels[decibels > SILENCE]
    if len(heard) == 0:
        return np.inf
    background = np.percentile(heard, 10)
    contrast = smooth(heard, 5).max() - background
    return background + min(LIFT, 0.3 * contrast) if contrast > CONTRAST else np.inf


def find_sounds(decibels: np.ndarray) -> list[tuple[int, int]]:
    """Where (F,) is loud, with GAP of quiet between: first frame, and the frame behind the last."""
    edges = np.flatnonzero(
        np.diff(smooth(decibels, 5) > threshold(decibels), prepend=False, append=False)
    )
    sounds: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if sounds and start - sounds[-1][1] < GAP:
            start = sounds.pop()[0]
        sounds.append((start, end))
    return [(start, end) for start, end in sounds if end - start >= CLICK]


def find_pieces(decibels: np.ndarray, limits: Limits) -> list[tuple[int, int]]:
    """The pieces of a recording with the loudness (F,): first frame, and the frame behind the last.
    A piece is a stretch of sounds without a pause, with up to half of one on either side, or a part of it."""
    if len(decibels) == 0:
        return []
    pause, found, stretch = limits.pause, [], []
    sounds, quiet = find_sounds(decibels), smooth(decibels, 20)
    for (start, end), (after, _) in zip(sounds, [*sounds[1:], (np.inf, None)]):
        words = max(1, round((end - start) / WORD))
        stretch += [start + (end - start) * i // words for i in range(words)]
        if after - end >= pause:
            first, last = max(0, stretch[0] - pause // 2), min(len(decibels), end + pause // 2)
            found += divide(quiet, first, last, stretch, limits)
            stretch = []
    return found


def divide(
    quiet: np.ndarray, first: int, last: int, words: list[int], limits: Limits
) -> Iterator[tuple[int, int]]:
    """Cut the frames first..last where `quiet` (F,) is least, so that no part breaks a limit.
    `words`: the frames at which they start. Each part but the last is more than half of what it may be."""
    while True:
        inside = [word for word in words if word >= first]
        most = min(
            [first + round(limits.seconds / FRAME), *inside[limits.sounds : limits.sounds + 1]]
        )
        if last <= most:
            yield first, last
            return
        half = (first + most) // 2 + 1
        cut = half + int(quiet[half : most + 1].argmin())
        yield first, cut
        first = cut
