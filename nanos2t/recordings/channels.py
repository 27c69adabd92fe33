"""Mix the channels of a recording to one, so that no channel hides what another one has.

The mean of the channels is right for most recordings. It is wrong where channels cancel each other
(stereo in opposite phase: the mean is silence) and where one of them is a loud hum. `mix_blocks`
looks at windows of some seconds, one after the other, chooses the channels of each, and warns when
it leaves one out. A window without a sound that stands out has the channels of the window before.

Shapes: L samples, C channels, F frames, N frequencies of a frame.
"""

import warnings
from collections.abc import Iterable, Iterator

import numpy as np

# A larger sample is damage: the model could not hear the others beside it, and squares overflow.
MAX_SAMPLE = 1e15

MAX_RATE = 10_000_000  # Hz: a higher rate is a mistake

# Seconds: of a window, of one in which a steady channel can be told from a voice, and of a frame.
WINDOW_SECONDS = 10.0
MIN_STEADY_SECONDS = 2.0
FRAME_SECONDS = 0.05

# Hz: of speech. Channels that share a hum or an offset below may cancel each other here.
SPEECH_BAND = (200.0, 4000.0)

# Channels cancel each other if their mean has less than this share of the energy that it would have
# if they were independent, over so many frames that are loud.
CANCELLED_SHARE = 0.5
GROUP_FRAMES = 20

# Decibels below the loudest frame: quieter frames do not tell whether channels cancel each other,
# or, by the second number, count as digital silence.
LOUD_RANGE = 15.0
AUDIBLE_RANGE = 70.0

# Decibels from the background to the loud frames of a channel: with less it is steady, as a hum is.
# A steady channel is left out if, with it, the contrast is below the second number, and without it
# greater by at least the third.
MIN_CONTRAST = 10.0
CLEAR_CONTRAST = 20.0
MIN_GAIN = 6.0


def check_samples(samples: np.ndarray, where: str = "") -> None:
    """Raise ValueError, beginning with `where`, for NaN, infinity and more than MAX_SAMPLE."""
    if not (np.abs(samples) <= MAX_SAMPLE).all():
        largest = f"{np.abs(samples).max():g}"
        raise ValueError(f"{where}expected finite samples up to {MAX_SAMPLE:g}, found {largest}")


def mix_blocks(
    blocks: Iterable[np.ndarray], sample_rate: float, label: str
) -> Iterator[np.ndarray]:
    """Yield blocks (L, C) of a recording as mono blocks (L,).

    label: what warnings begin with. At most a window is in memory. The last samples are mixed as
    those before if they are too few to choose their channels.
    """
    chosen: list[int] = []  # the channels of the window before
    warned: list[list[int]] = []
    first = 0  # the first sample of the window in the recording
    for window in gather_windows(blocks, round(WINDOW_SECONDS * sample_rate)):
        num_channels = window.shape[1]
        if num_channels > 1:
            previous = chosen or list(range(num_channels))
            chosen, reason = choose_channels(window, sample_rate, previous)
            if reason and chosen not in warned:
                warned.append(chosen)
                warn_about_channels(label, first / sample_rate, chosen, num_channels, reason)
            window = window[:, chosen]
        first += len(window)
        yield window.mean(axis=1)


def gather_windows(blocks: Iterable[np.ndarray], min_samples: int) -> Iterator[np.ndarray]:
    """Yield blocks (L, C) joined to windows of `min_samples` or more; the last may be shorter.

    Blocks of one channel are yielded as they come: they need no choice.
    """
    pending: list[np.ndarray] = []
    for block in blocks:
        pending.append(block)
        if block.shape[1] == 1 or sum(map(len, pending)) >= min_samples:
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)


def choose_channels(
    window: np.ndarray, sample_rate: float, previous: list[int]
) -> tuple[list[int], str]:
    """Return the channels of a window (L, C) whose mean is to be used, and why others are left out.

    previous: the channels of the window before. The reason is empty if no channel is left out, or
    if there is nothing new.
    """
    spectra = measure_spectra(window, sample_rate)  # (F, N, C)
    energies = sum_energy(spectra)  # (F, C)
    if energies.size == 0 or energies.max() == 0:
        return previous, ""

    # Leave out steady channels that hide a voice.
    chosen = list(range(window.shape[1]))
    reason = ""
    if len(window) >= MIN_STEADY_SECONDS * sample_rate:
        chosen = leave_out_steady(spectra, energies)
        if not chosen:
            # There is no voice to hide.
            chosen = previous
        elif len(chosen) < window.shape[1]:
            reason = "a steady noise hides the other channels"
    elif len(previous) < window.shape[1]:
        return previous, ""

    # Of channels that cancel each other one is enough: the strongest.
    low, high = (round(hertz * FRAME_SECONDS) for hertz in SPEECH_BAND)
    speech = spectra[:, low : high + 1, chosen]
    if is_cancelled(speech):
        strongest = sum_energy(speech).sum(axis=0).argmax()
        chosen = [chosen[strongest]]
        reason = "channels in opposite phase cancel each other"
    return chosen, reason


def measure_spectra(window: np.ndarray, sample_rate: float) -> np.ndarray:
    """Return the spectra (F, N, C), without their constant part, of the frames of (L, C).

    A frequency is 1 / FRAME_SECONDS Hz wide. A window that is shorter than a frame is one frame.
    """
    hop = min(round(FRAME_SECONDS * sample_rate), len(window))
    num_frames = len(window) // hop
    frames = window[: num_frames * hop].reshape(num_frames, hop, -1)  # (F, hop, C)

    # The taper keeps a hum out of the frequencies of speech.
    taper = np.hanning(hop + 1)[:hop]
    spectra = np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * taper[:, None], axis=1)
    return spectra.astype(np.complex64)


def sum_energy(spectra: np.ndarray) -> np.ndarray:
    """Return the energy (F, C) of each frame of spectra (F, N, C)."""
    return (spectra.real**2 + spectra.imag**2).sum(axis=1)


def leave_out_steady(spectra: np.ndarray, energies: np.ndarray) -> list[int]:
    """Return the channels of (F, N, C) without steady ones that hide the others.

    energies: (F, C), those of the spectra. Returns no channels if all are steady.
    """
    contrasts = [measure_contrast(channel) for channel in energies.T]
    lively = [channel for channel, contrast in enumerate(contrasts) if contrast >= MIN_CONTRAST]
    if len(lively) in (0, len(contrasts)):
        return lively

    # A steady channel that is quiet does no harm.
    with_steady = measure_contrast(sum_energy(spectra.mean(axis=2, keepdims=True))[:, 0])
    without = measure_contrast(sum_energy(spectra[:, :, lively]).sum(axis=1))
    if with_steady < CLEAR_CONTRAST and without - with_steady >= MIN_GAIN:
        return lively
    return list(range(len(contrasts)))


def measure_contrast(energies: np.ndarray) -> float:
    """Return the decibels from the background to the loud frames, of energies (F,)."""
    audible = energies[energies > energies.max() * 10 ** (-AUDIBLE_RANGE / 10)]
    if len(audible) == 0:
        return 0.0
    background, loud = 10 * np.log10(np.percentile(audible, [10, 97]))
    return loud - background


def is_cancelled(spectra: np.ndarray) -> bool:
    """Check whether channels of the spectra (F, N, C) cancel each other in a group of loud frames.

    There are several groups because the phase may be opposite only from some time on.
    """
    num_channels = spectra.shape[2]
    totals = sum_energy(spectra).sum(axis=1)  # (F,)
    mean_energies = sum_energy(spectra.mean(axis=2, keepdims=True))[:, 0]  # (F,)

    # A click may be louder than all that is said: some frames less decide as well.
    for level in (totals.max(), np.percentile(totals, 97)):
        loud_frames = np.flatnonzero(totals > level * 10 ** (-LOUD_RANGE / 10))
        num_groups = max(1, len(loud_frames) // GROUP_FRAMES)
        for group in np.array_split(loud_frames, num_groups):
            # The mean of C independent channels has 1 / C**2 of the sum of their energies.
            shares = mean_energies[group] * num_channels**2 / totals[group]
            if np.median(shares) < CANCELLED_SHARE:
                return True
    return False


def warn_about_channels(
    label: str, seconds: float, chosen: list[int], num_channels: int, reason: str
) -> None:
    """Warn that only some channels are used from `seconds` on."""
    numbers = ", ".join(str(channel + 1) for channel in chosen)
    channels = f"only channel {numbers} of {num_channels}"
    warnings.warn(f"{label}: from {seconds:g} s on {channels} is used: {reason}", stacklevel=2)
