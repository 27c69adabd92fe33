"""People who speak in programs of Debian: they measure a model, and no model here is trained on
them.

Each has one recording of each digit. One speaks words and sentences without digits, too.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from digits import DIGITS

SHARE = Path("/usr/share")

# Where the package of a speaker has the digits.
SPEAKERS = {
    # asterisk-core-sounds-en-wav: Allison Smith, CC BY-SA 3.0
    "allison": "asterisk/sounds/en_US_f_Allison/digits/{number}.wav",
    # csmash-data, GPL 2
    "csmash": "games/csmash/wav/{word}.wav",
    # not1mm, GPL 3
    "not1mm": "not1mm/data/phonetics/{number}.wav",
    # saytime: David C. Dawson, GPL
    "saytime": "saytime/{number}.au",
    # tuxpaint-stamps-default, GPL 2: an American and a British speaker
    "tuxpaint": "tuxpaint/stamps/symbols/math/{number}.ogg",
    "tuxpaintgb": "tuxpaint/stamps/symbols/math/{number}_en_GB.ogg",
}

# What Allison Smith says without any digit: the spelling alphabet, and these.
ALPHABET = "asterisk/sounds/en_US_f_Allison/phonetic/{letter}_p.wav"
SENTENCES = "asterisk/sounds/en_US_f_Allison/{name}.wav"
SENTENCE_NAMES = (
    "added", "agent-incorrect", "beep", "call-forwarding", "call-waiting", "cancelled",
    "conf-full", "conf-getchannel", "conf-hasleft", "conf-invalid", "conf-kicked", "conf-locked",
    "conf-muted", "demo-nogo", "dir-nomatch", "dir-nomore", "enabled", "extension", "goodbye",
    "hello", "hello-world", "hours", "invalid", "is", "location", "lowercase", "minute",
    "please-try-again", "queue-thankyou", "removed", "seconds", "sorry",
    "telephone-number", "transfer", "tt-weasels", "uppercase", "vm-deleted", "vm-goodbye",
    "vm-incorrect", "vm-mailboxfull", "vm-message", "vm-messages", "vm-nobodyavail",
    "vm-password", "vm-received", "vm-saved", "vm-sorry", "vm-theperson", "vm-undeleted",
)  # fmt: skip


def read_prompts(share: Path = SHARE) -> Iterator[tuple[int, str, int, np.ndarray, int]]:
    """Yield (digit, speaker, index, samples, sample rate) of the speakers that are installed.

    FileNotFoundError: none is.
    """
    num_found = 0
    for speaker, pattern in SPEAKERS.items():
        paths = [
            share / pattern.format(number=number, word=word) for number, word in enumerate(DIGITS)
        ]
        if not all(path.exists() for path in paths):
            continue
        num_found += 1
        for digit, path in enumerate(paths):
            yield digit, speaker, 0, *read_mono(path)
    if not num_found:
        raise FileNotFoundError(f"{share}: none of {', '.join(SPEAKERS)}")


def read_other_prompts(share: Path = SHARE) -> Iterator[tuple[str, int, np.ndarray, int]]:
    """Yield (speaker, index, samples, sample rate) of what has no digit, as far as installed."""
    letters = [ALPHABET.format(letter=letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
    sentences = [SENTENCES.format(name=name) for name in SENTENCE_NAMES]
    for index, name in enumerate([*letters, *sentences]):
        if (share / name).exists():
            yield "allison", index, *read_mono(share / name)


def read_mono(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, always_2d=True)
    return samples.mean(axis=1), rate
