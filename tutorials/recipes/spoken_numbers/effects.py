"""What changes a recording: speed, filters, noise, rooms, bad cuts. Waveforms are (L,) at 8 kHz."""

import numpy as np

RATE = 8000


def change_speed(x: np.ndarray, factor: float) -> np.ndarray:
    """Play `factor` times as fast: pitch, formants and speed change together, as between
    speakers.
    """
    times = np.arange(0, len(x) - 1, factor)
    return np.interp(times, np.arange(len(x)), x).astype(np.float32)


def fft_size(samples: int) -> int:
    """Round a length up to one whose FFT is fast."""
    return -(-samples // 2048) * 2048


def colour(x: np.ndarray, rng: np.random.Generator, decibels: float) -> np.ndarray:
    """Filter with a smooth random curve of about +-`decibels`: another microphone, another
    mouth.
    """
    spectrum = np.fft.rfft(x, fft_size(len(x)))
    knots = rng.normal(0.0, decibels / 2, 9)
    curve = np.interp(np.linspace(0, 8, len(spectrum)), np.arange(9), knots)
    filtered = np.fft.irfft(spectrum * 10 ** (curve / 20))
    return filtered[: len(x)]


def limit_band(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep the frequencies from `low` to `high` Hz, with soft edges, as a telephone does."""
    spectrum = np.fft.rfft(x, fft_size(len(x)))
    hertz = np.linspace(0, RATE / 2, len(spectrum))
    spectrum = spectrum / (1 + (low / (hertz + 1)) ** 6) / (1 + (hertz / high) ** 12)
    return np.fft.irfft(spectrum)[: len(x)]


def draw_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of unit power with a spectrum between white and brown."""
    spectrum = np.fft.rfft(rng.standard_normal(fft_size(samples)))
    slope = np.arange(1, len(spectrum) + 1) ** rng.uniform(0, 1)
    x = np.fft.irfft(spectrum / slope)[:samples]
    return x / (x.std() + 1e-9)


def reverberate(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play in a small room: convolve with decaying noise."""
    samples = int(rng.uniform(0.03, 0.25) * RATE)
    echoes = rng.standard_normal(samples)
    decay = np.exp(-6.9 * np.arange(samples) / samples)  # 60 dB from begin to end
    room = echoes * decay * rng.uniform(0.05, 0.3)
    room[0] = 1.0

    size = fft_size(len(x) + samples)
    spectrum = np.fft.rfft(x, size) * np.fft.rfft(room, size)
    return np.fft.irfft(spectrum, size)[: len(x)]


def cut_badly(x: np.ndarray, next_take: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a recording in the wrong place, as some recordings are.

    A part of its end or of its beginning is missing, or it runs from the middle of one take into
    the next.
    """
    cut = int(len(x) * rng.uniform(0.05, 0.45))
    kind = rng.random()
    if kind < 0.25:
        return x[: len(x) - cut // 2]
    if kind < 0.7:
        return x[cut:]
    return np.concatenate([x[cut:], next_take[:cut]])
