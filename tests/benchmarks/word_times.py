# python -m tests.benchmarks.word_times --data FOLDER
"""Words and their times on joined digits, whose boundaries are known.

FOLDER has `{digit}_{speaker}_{index}.wav`; only recordings that training never saw are used.
Verbatim text: groups of three digits with two seconds of silence between them, a minute and more.
German: numbers of one to four digits. Prints a line of JSON: word error, the errors of onsets in
seconds over the words that are right, and the share of the parts of German numbers ("sieben",
"vierzig") that are found where their digit was said.
"""

import argparse
import difflib
import json
import sys
from pathlib import Path

import numpy as np

import nanos2t
from nanos2t import audio

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.spoken_numbers import DIGITS, SpokenDigit, join_clips, locate_german  # noqa: E402

RATE = 8000

# Indices for validation, of tutorials/recipes/spoken_numbers/spoken_numbers.py
HELD_OUT = range(9, 50, 9)


def read_clip(folder: Path, speaker: str, digit: int, rng: np.random.Generator) -> np.ndarray:
    """Return one of the recordings (L,) of a digit by a speaker."""
    return audio.load_audio(folder / f"{digit}_{speaker}_{rng.choice(HELD_OUT)}.wav", RATE)


def find_speakers(folder: Path) -> list[str]:
    return sorted({path.stem.split("_")[1] for path in folder.glob("*_*_*.wav")})


def join_groups(
    folder: Path, seconds: float, seed: int, max_pause: float
) -> tuple[np.ndarray, list[SpokenDigit]]:
    """Return a waveform (L,) of groups of three digits, and where each digit was put."""
    rng = np.random.default_rng(seed)
    speakers = find_speakers(folder)
    clips = []
    pauses = []
    total = 0.0
    while total < seconds:
        speaker = speakers[rng.integers(len(speakers))]
        for pause in (*rng.uniform(0, max_pause, 2), 2.0):
            digit = int(rng.integers(10))
            clip = read_clip(folder, speaker, digit, rng)
            clips.append((digit, clip))
            pauses.append(pause)
            total += len(clip) / RATE + pause
    return join_clips(clips, pauses, RATE, lead_in=0.5)


def join_number(
    folder: Path, count: int, seed: int, max_pause: float
) -> tuple[np.ndarray, list[SpokenDigit]]:
    """Return a waveform (L,) of a number with `count` digits, and where each digit was put."""
    rng = np.random.default_rng((seed, count))
    speakers = find_speakers(folder)
    speaker = speakers[rng.integers(len(speakers))]
    digits = [int(rng.integers(1, 10)), *rng.integers(0, 10, count - 1).tolist()]
    clips = [(digit, read_clip(folder, speaker, digit, rng)) for digit in digits]
    return join_clips(
        clips, rng.uniform(0, max_pause, count).tolist(), RATE, rng.uniform(0.05, 0.5)
    )


def compare_words(spoken: list[SpokenDigit], words: list) -> tuple[int, list[float]]:
    """Return how many words are wrong, missing or too many, and the onset errors of the others."""
    expected = [DIGITS[item.digit] for item in spoken]
    written = [word.word for word in words]
    matcher = difflib.SequenceMatcher(None, expected, written, autojunk=False)
    num_wrong = 0
    errors = []
    for name, first, last, first_word, last_word in matcher.get_opcodes():
        if name != "equal":
            num_wrong += max(last - first, last_word - first_word)
            continue
        for item, word in zip(spoken[first:last], words[first_word:last_word], strict=True):
            errors.append(word.start - item.start)
    return num_wrong, errors


def measure_verbatim(stt, options: argparse.Namespace) -> dict:
    """Return the word error of each recording, and the errors of all onsets."""
    word_errors = []
    num_words = 0
    errors = []
    for seed in range(options.runs):
        waveform, spoken = join_groups(options.data, options.seconds, seed, options.pause)
        result = stt.transcribe(waveform, sample_rate=RATE, language="verbatim", words=True)
        num_wrong, onsets = compare_words(spoken, result.words)
        word_errors.append(round(num_wrong / len(spoken), 4))
        num_words += len(spoken)
        errors += onsets
    median, largest = np.percentile(np.abs(errors), (50, 95))
    return {
        "words": num_words,
        "word_error": word_errors,
        "onset_median": round(float(median), 4),
        "onset_95": round(float(largest), 4),
        "onset_bias": round(float(np.median(errors)), 4),
    }


def measure_german(stt, options: argparse.Namespace) -> dict:
    """Return how many parts of German numbers were timed, and the share in the right word."""
    located = []
    num_wrong = 0
    for seed in range(options.numbers):
        waveform, spoken = join_number(options.data, 1 + seed % 4, seed, options.pause)
        parts = locate_german(stt, waveform, spoken)
        if parts is None:
            num_wrong += 1
        else:
            located += parts
    return {
        "german_parts": len(located),
        "german_in_word": round(float(np.mean(located)), 4),
        "german_wrong_numbers": num_wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="folder; default: the bundled model")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=3, help="recordings, each with another seed")
    parser.add_argument("--numbers", type=int, default=200, help="German numbers")
    parser.add_argument(
        "--pause", type=float, default=0.3, help="most seconds between the digits of a group"
    )
    options = parser.parse_args()
    stt = nanos2t.load(options.model)
    print(json.dumps(measure_verbatim(stt, options) | measure_german(stt, options)))


if __name__ == "__main__":
    main()
