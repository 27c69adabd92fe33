"""Split long audio into chunks that are short enough for the model; leave out long silence.

1. `measure_loudness`: decibels of each frame of 10 ms.
2. `choose_threshold`: how loud a sound must be, from the background and the loudest frames.
3. `find_sounds`: stretches above the threshold. Short gaps are closed, clicks are left out.
4. `find_chunks`: sounds without a pause between them are a stretch of speech, which gets half a
   pause on either side.
5. `divide_stretch`: a stretch that is too long is cut at its quietest frames.

`split_recording` does this block by block, and keeps in memory only what is undecided: a block and
a chunk at most.

Shapes: L samples, F frames. Decibels are relative to the loudest frame of the recording so
far, so that a quiet recording is split as a loud one is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

# Seconds of a frame: short against the sounds of speech, long enough to measure loudness.
FRAME = 0.01

# Seconds: a shorter recording is one chunk, since it does not tell a voice from its background.
MIN_SPLIT_SECONDS = 2.0

# Frames over which loudness is averaged: to find sounds, and to find the quietest place for a cut.
SOUND_WINDOW = 5
CUT_WINDOW = 20

# Frames of quiet that separate two sounds: the closures of plosives within a word are shorter.
MIN_GAP = 10

# Frames of a sound: a shorter one is a click, too short for a word.
MIN_SOUND = 7

# Frames of a word: a longer sound counts as several words.
WORD_FRAMES = 50

# Decibels from the background to the threshold: this share of the contrast, up to a limit.
THRESHOLD_SHARE = 0.3
MAX_THRESHOLD = 6.0

# Decibels from the background to the loudest frames: with less it is noise, a hum or nothing.
MIN_CONTRAST = 10.0

# Decibels below the loudest frame: quieter frames are digital silence, no background. All that is
# quieter than the second number is alike.
DIGITAL_SILENCE = -70.0
FLOOR = -100.0


@dataclass(frozen=True)
class Limits:
    """How much audio a model processes at once: `seconds`, and `sounds` with quiet between them.

    `seconds` is a time, but `pause` a number of frames: so many frames of quiet end a chunk.
    """

    seconds: float = 30.0
    sounds: int = 10**9
    pause: int = 100  # frames of 10 ms


def split_recording(
    blocks: Iterable[np.ndarray], sample_rate: int, limits: Limits
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first sample of each chunk and the chunk (L,), in order and without overlap.

    blocks: the recording at `sample_rate` Hz in blocks (L,) of some seconds. Whether a sound is
    loud is decided within a block.

    The last item is the length of the recording and an empty chunk.
    """
    hop = round(FRAME * sample_rate)
    loudest = -np.inf
    min_samples = MIN_SPLIT_SECONDS * sample_rate
    pending = np.zeros(0, np.float32)
    first = 0  # the first sample of `pending` in the recording
    for block in blocks:
        pending = np.concatenate([pending, block])
        if len(pending) < min_samples:
            continue

        decibels = measure_loudness(pending, hop)  # (F,)
        loudest = max(loudest, decibels.max())
        decibels = np.maximum(decibels - loudest, FLOOR)

        # What ends less than a pause before the end of the block may go on in the next block.
        undecided = len(pending) // hop - limits.pause
        for start, end in find_chunks(decibels, limits):
            if end > undecided:
                undecided = min(start, undecided)
                break
            yield first + start * hop, pending[start * hop : end * hop].copy()
        pending = pending[undecided * hop :]
        first += undecided * hop

    # What is pending at the end is decided, too.
    if first > 0 or len(pending) >= min_samples:
        decibels = measure_loudness(pending, hop)
        loudest = max(loudest, decibels.max(initial=-np.inf))
        for start, end in find_chunks(np.maximum(decibels - loudest, FLOOR), limits):
            yield first + start * hop, pending[start * hop : end * hop]
    else:
        yield 0, pending
    yield first + len(pending), pending[:0]


def measure_loudness(waveform: np.ndarray, hop: int) -> np.ndarray:
    """Return the decibels (F,) of each frame of a waveform (L,); the last frame may be shorter.

    They are of the variance within a frame, so that a constant offset or a rumble below 100 Hz
    hardly counts. Relative to full scale; a constant frame has -300.
    """
    padded = np.pad(waveform, (0, -len(waveform) % hop), mode="edge")
    frames = padded.reshape(-1, hop)  # (F, hop)
    return 10 * np.log10(frames.var(axis=1, dtype=np.float64) + 1e-30)


def smooth(x: np.ndarray, window: int) -> np.ndarray:
    """Return the moving average of x (F,) over `window` frames; the ends are extended."""
    before = window // 2
    padded = np.pad(x, (before, window - 1 - before), mode="edge")
    return np.convolve(padded, np.full(window, 1 / window), mode="valid")


def choose_threshold(decibels: np.ndarray) -> float:
    """Return the least loudness of a sound in (F,); infinity if all of it is background."""
    audible = decibels[decibels > DIGITAL_SILENCE]
    if len(audible) == 0:
        return np.inf
    background = np.percentile(audible, 10)
    contrast = smooth(audible, SOUND_WINDOW).max() - background
    if contrast <= MIN_CONTRAST:
        return np.inf
    return background + min(MAX_THRESHOLD, THRESHOLD_SHARE * contrast)


def find_sounds(decibels: np.ndarray) -> list[tuple[int, int]]:
    """Return the first frame of each sound in (F,), and the frame after its last one."""
    is_loud = smooth(decibels, SOUND_WINDOW) > choose_threshold(decibels)  # (F,)
    edges = np.flatnonzero(np.diff(is_loud, prepend=False, append=False))

    # Edges alternate: a sound starts, it ends, the next one starts.
    sounds: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if sounds and start - sounds[-1][1] < MIN_GAP:
            previous_start, _ = sounds.pop()
            sounds.append((previous_start, end))
        else:
            sounds.append((start, end))
    return [(start, end) for start, end in sounds if end - start >= MIN_SOUND]


def find_chunks(decibels: np.ndarray, limits: Limits) -> list[tuple[int, int]]:
    """Return the first frame of each chunk of (F,), and the frame after its last one."""
    if len(decibels) == 0:
        return []
    smoothed = smooth(decibels, CUT_WINDOW)
    margin = limits.pause // 2
    sounds = find_sounds(decibels)
    next_starts = [start for start, _ in sounds[1:]] + [np.inf]

    chunks = []
    words: list[int] = []  # the frames at which words of the stretch start
    for (start, end), next_start in zip(sounds, next_starts):
        words += estimate_word_starts(start, end)
        if next_start - end >= limits.pause:
            first = max(0, words[0] - margin)
            last = min(len(decibels), end + margin)
            chunks += divide_stretch(smoothed, first, last, words, limits)
            words = []
    return chunks


def estimate_word_starts(start: int, end: int) -> list[int]:
    """Return the frames at which words start in the sound from `start` to `end`, equally long."""
    count = max(1, round((end - start) / WORD_FRAMES))
    return [start + (end - start) * i // count for i in range(count)]


def divide_stretch(
    smoothed: np.ndarray, first: int, last: int, words: list[int], limits: Limits
) -> Iterator[tuple[int, int]]:
    """Yield the parts of the frames from `first` to `last`, none of which breaks a limit.

    smoothed: the loudness (F,), which is least where the stretch is cut. words: the frames at which
    words start. Each part but the last is longer than half of what the limits allow.
    """
    while True:
        # The longest part that is allowed ends by its duration or before one word too many.
        longest = first + round(limits.seconds / FRAME)
        inside = [word for word in words if word >= first]
        if len(inside) > limits.sounds:
            longest = min(longest, inside[limits.sounds])
        if last <= longest:
            yield first, last
            return

        half = (first + longest) // 2 + 1
        cut = half + int(smoothed[half : longest + 1].argmin())
        yield first, cut
        first = cut
