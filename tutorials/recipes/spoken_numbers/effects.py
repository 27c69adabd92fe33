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


def tilt(x: np.ndarray, decibels: float) -> np.ndarray:
    """Make each octave `decibels` louder than the one below: a thin microphone, or a dull one."""
    spectrum = np.fft.rfft(x, fft_size(len(x)))
    hertz = np.linspace(0, RATE / 2, len(spectrum))
    octaves = np.log2((hertz + 50) / 1000)
    return np.fft.irfft(spectrum * 10 ** (decibels * octaves / 20))[: len(x)]


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


# Stronger changes, for a model that is to understand strangers


def stretch_time(x: np.ndarray, factor: float, window: int = 256) -> np.ndarray:
    """Make speech `factor` times as long with the same pitch (WSOLA: Verhelst and Roelands, 1993).

    Windows are taken at another pace than they are laid down. Each is moved by up to a quarter of
    its length to where it continues the one before best.
    """
    step = window // 2
    slack = window // 4
    padded = np.pad(x, (slack, 2 * window + slack))
    count = max(1, round(len(x) * factor / step))
    fade = np.hanning(window + 1)[:window]
    output = np.zeros(count * step + window)
    continuation = padded[slack : slack + window]

    for i in range(count):
        start = min(int(i * step / factor), len(x))
        region = padded[start : start + window + 2 * slack]
        shift = int(np.argmax(np.correlate(region, continuation, "valid")))
        output[i * step : i * step + window] += region[shift : shift + window] * fade
        continuation = padded[start + shift + step : start + shift + step + window]
    return output[step // 2 : step // 2 + max(1, round(len(x) * factor))]


def change_voice(x: np.ndarray, factor: float) -> np.ndarray:
    """Raise pitch and formants by `factor` at the same speed: a smaller or a larger speaker."""
    return change_speed(stretch_time(x, factor), factor)


def draw_babble(takes: list[np.ndarray], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw 3 to 8 people who speak at once: unit power."""
    babble = np.zeros(samples)
    for _ in range(rng.integers(3, 9)):
        start = int(rng.integers(-2000, 1000))
        while start < samples:
            take = takes[rng.integers(len(takes))]
            begin = max(start, 0)
            end = min(start + len(take), samples)
            if end > begin:
                babble[begin:end] += take[begin - start : end - start]
            start += len(take) + int(rng.uniform(0, 0.2) * RATE)
    return babble / (babble.std() + 1e-9)


def draw_tones(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw tones with overtones that begin and end, one after the other or at once: unit power."""
    x = np.zeros(samples)
    for _ in range(rng.integers(1, 13)):
        length = int(rng.uniform(0.05, 2.0) * RATE)
        begin = int(rng.uniform(0, max(1, samples - length // 2)))
        times = np.arange(min(length, samples - begin)) / RATE
        pitch = 55 * 2 ** rng.uniform(0, 4.5)
        for overtone in range(1, int(rng.integers(2, 8))):
            x[begin : begin + len(times)] += (
                np.sin(2 * np.pi * pitch * overtone * times + rng.uniform(0, 6))
                * np.exp(-times * rng.uniform(0, 5))
                / overtone
            )
    return x / (x.std() + 1e-9)


def draw_music(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw notes and chords of one instrument, in time, with or without a drum: unit power."""
    x = np.zeros(samples)
    beat = int(rng.uniform(0.1, 0.8) * RATE)
    lowest = 55 * 2 ** rng.uniform(0, 3)
    most_notes = rng.integers(1, 5)
    rest = rng.uniform(0, 0.5)
    drum = rng.uniform(0.2, 3) if rng.random() < 0.4 else 0.0

    # The instrument: how strong its overtones are, how a note begins and how it fades.
    step = rng.choice([1, 1, 1, 2])
    overtones = np.arange(1, 20, step)[: rng.integers(1, 10)]
    strengths = overtones ** -rng.uniform(0, 2)
    attack = rng.uniform(0.002, 0.08)
    decay = rng.uniform(0, 9)
    vibrato = rng.choice([0.0, rng.uniform(0, 0.01)])

    for begin in range(int(rng.integers(beat)), samples, beat):
        length = min(int(beat * rng.uniform(0.5, 2)), samples - begin)
        times = np.arange(length) / RATE
        if rng.random() < rest:
            continue
        envelope = np.minimum(times / attack, 1) * np.exp(-decay * times)
        phase = times + vibrato * np.sin(35 * times) / 35
        for _ in range(rng.integers(1, most_notes + 1)):
            pitch = lowest * 2 ** (rng.integers(0, 25) / 12)
            for overtone, strength in zip(overtones, strengths):
                if pitch * overtone < RATE / 2:
                    tone = np.sin(2 * np.pi * pitch * overtone * phase + rng.uniform(0, 6))
                    x[begin : begin + length] += strength * tone * envelope
        if drum:
            hit = rng.standard_normal(length) * np.exp(-rng.uniform(15, 60) * times)
            x[begin : begin + length] += drum * hit
    return x / (x.std() + 1e-9)


def draw_buzz(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the steady sound of a machine: a pitch and its overtones, some of them strong, of unit
    power.
    """
    times = np.arange(samples) / RATE
    pitch = rng.uniform(30, 300)
    fall = rng.uniform(0, 1.5)
    x = np.zeros(samples)
    for overtone in range(1, int(rng.integers(2, 25))):
        if pitch * overtone < RATE / 2:
            phase = rng.uniform(0, 2 * np.pi)
            strength = rng.uniform(0.1, 1) / overtone**fall
            x += strength * np.sin(2 * np.pi * pitch * overtone * times + phase)
    return x / (x.std() + 1e-9)


def drop_details(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lose what a lossy codec loses: the weak parts of each spectrum, and exact magnitudes."""
    window = 256
    step = window // 2
    fade = np.sqrt(np.hanning(window + 1)[:window])
    padded = np.pad(x, (step, window + step))
    starts = np.arange(0, len(x) + step, step)
    frames = padded[starts[:, None] + np.arange(window)] * fade
    spectra = np.fft.rfft(frames)

    size = np.abs(spectra)
    floor = size.max(axis=1, keepdims=True) * rng.uniform(0.01, 0.12)
    steps = np.round(size / (floor + 1e-9)) * floor
    kept = np.fft.irfft(spectra * steps / (size + 1e-9), window) * fade

    output = np.zeros(len(padded))
    for start, frame in zip(starts, kept):
        output[start : start + window] += frame
    return output[step : step + len(x)]


def overdrive(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saturate, as a microphone that is too close."""
    gain = np.exp(rng.uniform(0, 2.5)) / (np.abs(x).max() + 1e-9)
    return np.tanh(x * gain) / gain


def reverberate_strongly(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Play in a larger room, some metres from the microphone."""
    seconds = rng.uniform(0.15, 0.8)
    samples = int(seconds * RATE)
    decay = np.exp(-6.9 * np.arange(samples) / samples)
    room = rng.standard_normal(samples) * decay

    # The direct sound is between 9 dB above and 3 dB below the echoes.
    room *= 10 ** (rng.uniform(-9, 3) / 20) / np.sqrt(np.sum(room**2))
    room[0] = 1.0
    size = fft_size(len(x) + samples)
    spectrum = np.fft.rfft(x, size) * np.fft.rfft(room, size)
    return np.fft.irfft(spectrum, size)[: len(x)]
