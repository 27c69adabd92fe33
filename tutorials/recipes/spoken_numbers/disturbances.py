"""What disturbs the sets that measure a model: nothing here is used in training.

Waveforms are (L,) at 8 kHz. Noise has unit power. The rooms, the codecs and the babble are made in
other ways than those of effects.py.
"""

import io
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr
from effects import RATE

# Sentences and words for babble, and for the sets without digits. None is in accents.py.
SENTENCES = (
    "the train to the airport leaves from another platform", "she bought bread and cheese",
    "could you turn the radio down", "we walked along the river until sunset", "that is a pity",
    "my brother plays the piano every evening", "the weather will change by the weekend",
    "do you prefer tea or lemonade", "an old man was reading a newspaper", "leave me alone",
    "the committee has not decided yet", "his bicycle needs a new chain", "bring me the scissors",
    "a letter arrived yesterday", "children were playing in the yard", "it is rather cold here",
    "carpet", "chocolate", "elephant", "marble", "captain", "december", "mountain", "pillow",
    "guitar", "lawyer", "bridge", "shoulder", "candle", "oxygen", "bottle", "pepper", "tomorrow",
    "kitchen", "island", "merry", "clock", "robin", "cloud", "leather",
)  # fmt: skip
VOICES = ("en-gb", "en-us", "en-gb+klatt2", "en-us+klatt4", "en-gb+croak", "en-029+f5", "en-us+m8")


def speak(text: str, voice: str) -> np.ndarray:
    """Speak with espeak-ng: (L,) of unit power."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        command = ["espeak-ng", "-v", voice, "-w", str(path), text]
        subprocess.run(command, check=True, capture_output=True)
        x, rate = soundfile.read(path)
    x = soxr.resample(x, rate, RATE)
    return x / x.std()


def speak_sentences() -> list[np.ndarray]:
    """Return each of SENTENCES three times, each time by another one of VOICES."""
    return [
        speak(SENTENCES[i % len(SENTENCES)], VOICES[i % len(VOICES)])
        for i in range(3 * len(SENTENCES))
    ]


# Noises


def draw_white(samples: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(samples)


def draw_hum(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the hum of the mains, 50 or 60 Hz, with 12 overtones."""
    times = np.arange(samples) / RATE
    mains = rng.choice([50, 60])
    x = np.zeros(samples)
    for overtone in range(1, 14):
        phase = rng.uniform(0, 2 * np.pi)
        x += rng.uniform(0.2, 1) / overtone * np.sin(2 * np.pi * mains * overtone * times + phase)
    return x / x.std()


def draw_chords(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Draw music: chords of three notes with overtones, two in a second."""
    x = np.zeros(samples)
    for begin in range(0, samples, RATE // 2):
        times = np.arange(min(RATE // 2, samples - begin)) / RATE
        root = 110 * 2 ** (rng.integers(0, 24) / 12)
        for interval in (0, rng.choice([3, 4]), 7):
            pitch = root * 2 ** (interval / 12)
            for overtone in range(1, 6):
                tone = np.sin(2 * np.pi * pitch * overtone * times)
                x[begin : begin + len(times)] += tone * np.exp(-3 * times) / overtone
    return x / x.std()


def join_babble(sentences: list[np.ndarray], samples: int, rng: np.random.Generator) -> np.ndarray:
    """Let six voices say sentences at once, one sentence after the other."""
    x = np.zeros(samples)
    for _ in range(6):
        own = [sentences[i] for i in rng.permutation(16)]
        joined = np.concatenate(own)
        start = rng.integers(len(joined) // 2)
        x += np.resize(joined[start:], samples)
    return x / x.std()


def add_noise(x: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """Add noise of unit power, `decibels` below the mean power of the speech."""
    # Pauses, which are digital silence, do not count.
    power = np.mean(x[x != 0] ** 2)
    return x + noise * np.sqrt(power) * 10 ** (-decibels / 20)


# Rooms and equipment


def make_room(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return the response (L,) of a box of a room whose echoes fade by 60 dB in `seconds`.

    By the image method (Allen and Berkley, 1979), with one reflection coefficient for all walls.
    """
    size = rng.uniform([3, 3, 2.4], [8, 6, 3.5])
    source = rng.uniform(0.5, size - 0.5)
    microphone = rng.uniform(0.5, size - 0.5)

    # Sabine's formula gives the share of the energy that the walls absorb.
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    absorbed = min(0.161 * size.prod() / (seconds * surface), 0.9)
    reflection = np.sqrt(1 - absorbed)

    # Images of the source, mirrored at the walls: where, and after how many reflections.
    reach = np.arange(-25, 26)
    places = []
    counts = []
    for axis in range(3):
        even = 2 * reach * size[axis] + source[axis]
        odd = 2 * reach * size[axis] - source[axis]
        places.append(np.concatenate([even, odd]) - microphone[axis])
        counts.append(np.concatenate([2 * np.abs(reach), np.abs(2 * reach - 1)]))
    x, y, z = np.meshgrid(*places, indexing="ij")
    distance = np.sqrt(x**2 + y**2 + z**2)
    total = sum(np.meshgrid(*counts, indexing="ij"))

    arrival = np.round(distance / 343 * RATE).astype(int)
    response = np.zeros(int(1.5 * seconds * RATE))
    is_heard = arrival < len(response)
    np.add.at(response, arrival[is_heard], (reflection**total / distance)[is_heard])

    # The walls of a perfect box give all echoes the same sign, which is a rumble: remove it.
    spectrum = np.fft.rfft(response)
    pitch = 1j * np.fft.rfftfreq(len(response), 1 / RATE) / 80
    response = np.fft.irfft(spectrum * pitch / (1 + pitch), len(response))
    response = response[arrival.min() :]
    return response / np.sqrt(np.sum(response**2))


def clip_peaks(x: np.ndarray, decibels: float) -> np.ndarray:
    """Cut off peaks at `decibels` below the highest."""
    limit = np.abs(x).max() * 10 ** (-decibels / 20)
    return np.clip(x, -limit, limit)


def quantise(x: np.ndarray, decibels: float) -> np.ndarray:
    """Record in 16 bits with the peak at `decibels` below full scale."""
    scaled = x / np.abs(x).max() * 10 ** (-decibels / 20)
    return np.round(scaled * 32767) / 32768


def code_gsm(x: np.ndarray) -> np.ndarray:
    """Send through a mobile telephone: GSM 06.10, 13 kbit/s."""
    file = io.BytesIO()
    soundfile.write(file, x / np.abs(x).max() * 0.9, RATE, "GSM610", format="WAV")
    file.seek(0)
    return soundfile.read(file)[0][: len(x)]


def code_opus(x: np.ndarray, bit_rate: int = 12000) -> np.ndarray:
    """Send through Opus, by the package av."""
    import av

    file = io.BytesIO()
    loud = soxr.resample(x / np.abs(x).max() * 0.9, RATE, 48000).astype(np.float32)
    with av.open(file, "w", format="ogg") as output:
        stream = output.add_stream("libopus", rate=48000, layout="mono")
        stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(loud[None], format="flt", layout="mono")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))

    file.seek(0)
    with av.open(file) as source:
        frames = [frame.to_ndarray().mean(axis=0) for frame in source.decode(audio=0)]
    return soxr.resample(np.concatenate(frames), 48000, RATE)
