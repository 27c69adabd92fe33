"""Manifests for `nanos2t train` and `nanos2t eval` from recordings named `{digit}_{speaker}_{index}.wav`.

    python tutorials/recipes/manifests.py RECORDINGS FOLDER            # a line for each recording: one digit
    python tutorials/recipes/manifests.py RECORDINGS FOLDER --join 4   # up to 4 of a speaker's in a row, as new files

FOLDER gets test.jsonl (index 0 to 4), dev.jsonl (9, 18, 27 ...) and train.jsonl (the others), those that have
lines: the split of spoken_numbers.py. The text is the digits in English words.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from nanos2t import audio
from nanos2t.training.manifest import Item

RATE = 8000
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARTS = ("test", "dev", "train")
Recording = tuple[int, str, Path]  # digit, speaker, file


def part_of(index: int) -> str:
    """The official test split, and every ninth of the others."""
    return "test" if index < 5 else "train" if index % 9 else "dev"


def find(folder: Path, part: str) -> list[Recording]:
    """The recordings of a part, by name. ValueError for one that is named almost so."""
    found = []
    for path in sorted(folder.glob("[0-9]_*_*.wav")):
        if not (name := re.fullmatch("([0-9])_([^_]+)_([0-9]+)", path.stem)):
            raise ValueError(f"{path}: expected {{digit}}_{{speaker}}_{{index}}.wav")
        if part_of(int(name[3])) == part:
            found.append((int(name[1]), name[2], path))
    return found


def alone(recordings: list[Recording]) -> list[Item]:
    return [Item(str(path.resolve()), DIGITS[digit]) for digit, _, path in recordings]


def rows(
    recordings: list[Recording], most: int, rng: np.random.Generator
) -> Iterator[list[Recording]]:
    """Each recording once, in rows of 1 to `most` by one speaker."""
    for speaker in sorted({recording[1] for recording in recordings}):
        own = [recording for recording in recordings if recording[1] == speaker]
        left = [own[i] for i in rng.permutation(len(own))]
        while left:
            size = int(rng.integers(1, most + 1))
            yield left[:size]
            del left[:size]


def joined(
    recordings: list[Recording], most: int, times: int, seed: int, folder: Path
) -> list[Item]:
    """Files in `folder` with rows of recordings of equal loudness, 0.05 to 0.3 s apart: all, `times` over."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for row in (row for _ in range(times) for row in rows(recordings, most, rng)):
        pieces = []
        for _, _, path in row:
            clip = audio.load_audio(path, RATE)
            pieces += [
                np.zeros(int(rng.uniform(0.05, 0.3) * RATE)),
                0.1 * clip / (clip.std() + 1e-4),
            ]
        path = folder / f"{len(items):05d}.wav"
        soundfile.write(path, np.concatenate([*pieces, pieces[0]]), RATE)
        items.append(
            Item(f"{folder.name}/{path.name}", " ".join(DIGITS[digit] for digit, _, _ in row))
        )
    return items


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--join", type=int, default=0, metavar="N", help="recordings in a row, at most"
    )
    parser.add_argument(
        "--times", type=int, default=1, help="how often train.jsonl has each of them then"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.join < 0 or options.times < 1:
        parser.error("expected --join 0 or more, --times 1 or more")
    try:
        write(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))


def write(options: argparse.Namespace) -> None:
    """The manifests and, of rows, their recordings."""
    found = {part: find(options.recordings, part) for part in PARTS}
    if not any(found.values()):
        raise ValueError(
            f"{options.recordings}: no recordings named {{digit}}_{{speaker}}_{{index}}.wav"
        )
    options.folder.mkdir(parents=True, exist_ok=True)
    for number, (part, recordings) in enumerate(found.items()):
        if recordings and options.join:
            times = options.times if part == "train" else 1
            seed, clips = options.seed * 3 + number, options.folder / part
            items = joined(recordings, options.join, times, seed, clips)
        else:
            items = alone(recordings)
        if items:
            lines = (json.dumps({"audio": item.audio, "text": item.text}) + "\n" for item in items)
            (options.folder / f"{part}.jsonl").write_text("".join(lines))
            print(f"{options.folder / part}.jsonl: {len(items)} lines")


if __name__ == "__main__":
    main()
