"""What is said in recordings without digits, for which a model is to write nothing.

Some of it is spoken by espeak-ng and flite: the words here, and words of Debian's dictionary
(wamerican). The rest is by people: the shouts of the game Hedgewars (hedgewars-data, GNU FDL 1.3),
the names of pictures of Tux Paint in other languages (tuxpaint-stamps-default, GPL 2), words and
syllables of two more programs for children (ktuberling-data, klettres-data, GPL 2), and what a
telephone exchange says in French, Italian and Russian (asterisk-core-sounds-fr-wav and so on, CC
BY-SA 3.0).
"""

import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from digits import DIGITS
from prompts import SHARE, read_mono

# None of these sounds like a digit.
OTHER_WORDS = (
    "hello", "yes", "no", "stop", "please", "thank you", "good morning", "water", "window",
    "apple", "banana", "computer", "Monday", "Friday", "April", "garden", "yellow", "purple",
    "the cat sat on the mat", "where is my coffee", "I do not know", "see you tomorrow", "maybe",
    "open the door", "what time is it", "left", "right", "up", "down", "go", "bird", "house",
    "mother", "father", "table", "paper", "music", "telephone", "school", "hospital", "hundred",
    "thousand", "plus", "minus", "point", "dog", "happy", "Sheila", "Marvin", "follow me",
    "a cup of hot chocolate", "it was a dark and stormy evening", "big", "small", "jump", "swim",
    "orange", "umbrella", "kangaroo", "zebra", "violin", "sister", "frog", "fish", "thread",
    "forest", "sigh", "save", "ace", "night", "fine", "heaven", "zeal", "tea", "wonderful",
)  # fmt: skip

DICTIONARY = Path("/usr/share/dict/american-english")
STAMPS = Path("/usr/share/tuxpaint/stamps")
STAMP_LANGUAGES = ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")
SHOUTS = Path("/usr/share/games/hedgewars/Data/Sounds/voices")
TOYS = {"ktuberling": "ktuberling/sounds", "klettres": "klettres"}
OPERATORS = {
    "june": "asterisk/sounds/fr_CA_f_June",
    "carlo": "asterisk/sounds/it_IT_m_Carlo",
    "ivrvoice": "asterisk/sounds/ru_RU_f_IvrvoiceRU",
}


def pronounce(words: list[str]) -> list[str]:
    """Return the phonemes of each word, in espeak-ng's letters and without stress."""
    command = ["espeak-ng", "-q", "-x", "-v", "en-us"]
    result = subprocess.run(
        command, input="\n".join(words), capture_output=True, text=True, check=True
    )
    lines = [re.sub("[',]", "", line).strip() for line in result.stdout.splitlines()]
    phonemes = [line for line in lines if line]
    if len(phonemes) != len(words):
        raise ValueError(f"espeak-ng: {len(phonemes)} lines of phonemes for {len(words)} words")
    return phonemes


def draw_dictionary_words(
    count: int, rng: random.Random, kept: set[str], path: Path = DICTIONARY
) -> list[str]:
    """Draw words of a dictionary in which no digit is heard, as it is in "someone" or "wait".

    Those of `kept`, which measure a model, are not drawn either.
    """
    lines = path.read_text(encoding="utf-8").split()
    words = [word for word in lines if re.fullmatch("[a-z]{3,10}", word) and word not in kept]
    drawn = rng.sample(words, min(len(words), 2 * count + 100))
    digits = pronounce([*DIGITS])

    quiet = []
    for word, phonemes in zip(drawn, pronounce(drawn)):
        if not any(digit in phonemes for digit in digits):
            quiet.append(word)
    return quiet[:count]


def read_shouts(folder: Path = SHOUTS) -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Yield (speaker, index, samples, sample rate) of the shorter shouts of Hedgewars."""
    for index, path in enumerate(sorted(folder.glob("*/*.ogg"))):
        samples, rate = read_mono(path)
        if is_short_sound(samples, rate):
            yield f"hedgewars-{path.parent.name.lower().replace('_', '-')}", index, samples, rate


def read_stamps(
    count: int, rng: random.Random, folder: Path = STAMPS
) -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Yield (speaker, index, samples, sample rate) of `count` pictures' names, without symbols."""
    paths = []
    for path in sorted(folder.rglob("*.ogg")):
        language = path.stem.rpartition("_")[2]
        if language in STAMP_LANGUAGES and "symbols" not in path.parts:
            paths.append(path)
    rng.shuffle(paths)

    num_found = 0
    for index, path in enumerate(paths):
        samples, rate = read_mono(path)
        if num_found < count and is_short_sound(samples, rate):
            num_found += 1
            yield f"tuxpaint-{path.stem.rpartition('_')[2]}", index, samples, rate


def read_toys(share: Path = SHARE) -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Yield (speaker, index, samples, sample rate) of the shorter sounds of TOYS: the names of
    parts of a face, letters and syllables.
    """
    for program, folder in TOYS.items():
        paths = [path for path in (share / folder).rglob("*") if path.suffix in (".ogg", ".wav")]
        for index, path in enumerate(sorted(paths)):
            language = path.relative_to(share / folder).parts[0].lower().replace("_", "-")
            samples, rate = read_mono(path)
            # What is written in two scripts is the same recording (sr@latin).
            if "@" not in language and is_short_sound(samples, rate):
                yield f"{program}-{language}", index, samples, rate


def read_operators(
    rng: random.Random, share: Path = SHARE
) -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Yield (speaker, index, samples, sample rate) of OPERATORS, up to 3 s of each prompt."""
    for speaker, folder in OPERATORS.items():
        for index, path in enumerate(sorted((share / folder).glob("*.wav"))):
            samples, rate = read_mono(path)
            longest = int(rng.uniform(1.0, 3.0) * rate)
            begin = rng.randrange(max(1, len(samples) - longest))
            samples = samples[begin : begin + longest]
            if is_short_sound(samples, rate):
                yield f"asterisk-{speaker}", index, samples, rate


def is_short_sound(samples: np.ndarray, rate: int) -> bool:
    is_heard = np.abs(samples).max(initial=0) > 1e-3
    return bool(is_heard) and 0.15 < len(samples) / rate < 3.5
