"""Joined recordings of digits, and the digit that each part of a German number translates."""

from typing import NamedTuple

import numpy as np
import torch

from nanos2t.transcription import alignment
from nanos2t.transcription.transcriber import SpeechToText

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
UNITS = ("null", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
TENS = ("", "zehn", "zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig")
TENS = (*TENS, "achtzig", "neunzig")
TEENS = {11: "elf", 12: "zwölf", 16: "sechzehn", 17: "siebzehn"}


class SpokenDigit(NamedTuple):
    """A digit of a joined recording, and where its own recording was put, in seconds."""

    start: float
    end: float
    digit: int


def join_clips(
    clips: list[tuple[int, np.ndarray]], pauses: list[float], rate: int, lead_in: float
) -> tuple[np.ndarray, list[SpokenDigit]]:
    """Join clips (digit, waveform), each followed by its pause; `lead_in` and pauses in seconds."""
    parts = [np.zeros(round(lead_in * rate))]
    num_samples = len(parts[0])
    spoken = []
    for (digit, clip), pause in zip(clips, pauses, strict=True):
        end = num_samples + len(clip)
        spoken.append(SpokenDigit(num_samples / rate, end / rate, digit))
        silence = np.zeros(round(pause * rate))
        parts += [clip, silence]
        num_samples = end + len(silence)
    return np.concatenate(parts).astype(np.float32), spoken


def split_german(digits: list[int]) -> list[tuple[str, list[int]]]:
    """Return the parts of a German number, in order, with the indices of the digits they translate.

    [2, 4, 7] has the parts "zwei" (0), "hundert" (none), "sieben" (2), "und" (none), "vierzig" (1).
    """
    count = len(digits)
    *upper, tens, units = [0, 0, 0, *digits][-4:]
    parts = []
    for digit, name, index in zip(upper, ("tausend", "hundert"), (count - 4, count - 3)):
        if digit:
            parts += [(UNITS[digit], [index]), (name, [])]

    return parts + split_german_below_hundred(tens, units, count)


def split_german_below_hundred(tens: int, units: int, count: int) -> list[tuple[str, list[int]]]:
    """Return the parts for the last two of `count` digits, as `split_german` does."""
    parts = []
    below_hundred = 10 * tens + units
    if below_hundred in (11, 12):
        parts.append((TEENS[below_hundred], [count - 2, count - 1]))
    elif below_hundred in TEENS:
        parts += [(TEENS[below_hundred][:-4], [count - 1]), ("zehn", [count - 2])]
    elif tens == 0:
        if units or count == 1:
            parts.append(("eins" if units == 1 else UNITS[units], [count - 1]))
    else:
        if units:
            parts.append((UNITS[units], [count - 1]))
        if units and tens > 1:
            parts.append(("und", []))
        parts.append((TENS[tens], [count - 2]))
    return parts


def locate_german(
    stt: SpeechToText, waveform: np.ndarray, spoken: list[SpokenDigit]
) -> list[bool] | None:
    """Return for each part of a German number whether it is found where its digit was said.

    Only parts that translate a digit count. None if another number was written.
    """
    result = stt.transcribe(waveform, sample_rate=stt.sample_rate, language="de")
    parts = split_german([item.digit for item in spoken])
    if result.text != "".join(text for text, _ in parts):
        return None

    config = stt.resolve_generation("de", {})[1]
    timing = alignment.choose_options(config, "de")
    positions = alignment.find_text(stt.tokenizer, result.tokens)
    seconds = len(waveform) / stt.sample_rate
    with torch.no_grad():
        memory, _ = stt.model.encode(stt.prepare([waveform])[0])
        aligned = alignment.align_tokens(
            stt.model, result.tokens, positions, memory, seconds, timing
        )

    # The peak of the last token with a peak of its own, for each character of the number
    text_tokens = [result.tokens[i] for i in positions]
    peak_times = (aligned.peaks + 0.5) * seconds / memory.shape[1]
    times = alignment.borrow_times(peak_times[aligned.has_peak], aligned.has_peak)
    time_of = []
    for i, time in enumerate(times):
        num_characters = len(stt.tokenizer.decode(text_tokens[: i + 1]).strip())
        time_of += [time] * (num_characters - len(time_of))

    located = []
    first = 0
    for text, indices in parts:
        if indices:
            words = [spoken[i] for i in indices]
            located.append(any(word.start <= time_of[first] <= word.end for word in words))
        first += len(text)
    return located
