# python tests/benchmarks/word_times.py --data FOLDER
"""Words and times on joined digits, whose boundaries are known: FOLDER has
`{digit}_{speaker}_{index}.wav`.

Groups of three with two seconds of silence between them, a minute and more; recordings that
training never saw. Prints a line of JSON: word error, and the errors of onsets in seconds over the
words that are right.
"""

import argparse
import difflib
import json
from pathlib import Path

import numpy as np

import nanos2t
from nanos2t import audio

RATE, HELD_OUT = 8000, range(9, 50, 9)  # of tutorials/recipes/spoken_numbers/spoken_numbers.py
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def joined(folder: Path, seconds: float, seed: int, most_pause: float) -> tuple[np.ndarray, list]:
    """A waveform (L,), and (start, end, word) of each digit: where its recording was put."""
    rng, parts, words, done = np.random.default_rng(seed), [np.zeros(RATE // 2)], [], RATE // 2
    speakers = sorted({path.stem.split("_")[1] for path in folder.glob("*_*_*.wav")})
    while done < seconds * RATE:
        speaker = speakers[rng.integers(len(speakers))]
        for last in (False, False, True):
            digit, index = rng.integers(10), rng.choice(HELD_OUT)
            clip = audio.load_audio(folder / f"{digit}_{speaker}_{index}.wav", RATE)
            pause = 2 * RATE if last else int(rng.uniform(0, most_pause) * RATE)
            words.append((done / RATE, (done + len(clip)) / RATE, DIGITS[digit]))
            parts += [clip, np.zeros(pause)]
            done += len(clip) + pause
    return np.concatenate(parts).astype(np.float32), words


def compare(truth: list, heard: list) -> tuple[int, list[float]]:
    """How many words are wrong, missing or too many, and the onset errors of those that are right.
    """
    left, right = [word for _, _, word in truth], [word.word for word in heard]
    blocks = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    wrong = sum(max(b - a, d - c) for name, a, b, c, d in blocks if name != "equal")
    pairs = [(a + i, c + i) for name, a, b, c, d in blocks if name == "equal" for i in range(b - a)]
    return wrong, [heard[j].start - truth[i][0] for i, j in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="folder; default: the bundled model")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=3, help="recordings, each with another seed")
    parser.add_argument(
        "--pause", type=float, default=0.3, help="most seconds between the digits of a group"
    )
    options = parser.parse_args()
    stt, wrong, count, errors = nanos2t.load(options.model), [], 0, []
    for seed in range(options.runs):
        waveform, truth = joined(options.data, options.seconds, seed, options.pause)
        result = stt.transcribe(waveform, sample_rate=RATE, language="verbatim", words=True)
        mistakes, onsets = compare(truth, result.words)
        wrong.append(round(mistakes / len(truth), 4))
        count, errors = count + len(truth), errors + onsets
    size = np.abs(errors)
    median, most = (round(float(np.percentile(size, share)), 4) for share in (50, 95))
    found = {"words": count, "word_error": wrong, "onset_median": median, "onset_95": most}
    print(json.dumps(found | {"onset_bias": round(float(np.median(errors)), 4)}))


if __name__ == "__main__":
    main()
