"""Write manifests for `nanos2t train` and `nanos2t eval` from recordings of single digits.

    python tutorials/recipes/manifests.py RECORDINGS FOLDER            # lines of one digit
    python tutorials/recipes/manifests.py RECORDINGS FOLDER --join 4   # lines of up to 4 digits

Recordings are named `{digit}_{speaker}_{index}.wav`. FOLDER gets test.jsonl (index 0 to 4),
dev.jsonl (9, 18, 27 ...) and train.jsonl (all others), as far as they have lines; spoken_numbers
splits in the same way. The text is the digits in English words.
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


def choose_part(index: int) -> str:
    """Return the official test split, or every ninth of the others for validation."""
    if index < 5:
        return "test"
    return "dev" if index % 9 == 0 else "train"


def find_recordings(folder: Path, part: str) -> list[Recording]:
    """Return the recordings of a part, by name. ValueError: a name is almost of the right form."""
    recordings = []
    for path in sorted(folder.glob("[0-9]_*_*.wav")):
        name = re.fullmatch("([0-9])_([^_]+)_([0-9]+)", path.stem)
        if not name:
            raise ValueError(f"{path}: expected {{digit}}_{{speaker}}_{{index}}.wav")
        if choose_part(int(name[3])) == part:
            recordings.append((int(name[1]), name[2], path))
    return recordings


def list_single(recordings: list[Recording]) -> list[Item]:
    return [Item(str(path.resolve()), DIGITS[digit]) for digit, _, path in recordings]


def draw_rows(
    recordings: list[Recording], max_digits: int, rng: np.random.Generator
) -> Iterator[list[Recording]]:
    """Yield each recording once, in rows of 1 to `max_digits` by one speaker."""
    for speaker in sorted({recording[1] for recording in recordings}):
        own = [recording for recording in recordings if recording[1] == speaker]
        remaining = [own[i] for i in rng.permutation(len(own))]
        while remaining:
            size = int(rng.integers(1, max_digits + 1))
            yield remaining[:size]
            del remaining[:size]


def write_joined(
    recordings: list[Recording], max_digits: int, times: int, seed: int, folder: Path
) -> list[Item]:
    """Write files with rows of recordings of equal loudness; each recording is used `times`
    times.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for _ in range(times):
        for row in draw_rows(recordings, max_digits, rng):
            path = folder / f"{len(items):05d}.wav"
            soundfile.write(path, join_row(row, rng), RATE)
            text = " ".join(DIGITS[digit] for digit, _, _ in row)
            items.append(Item(f"{folder.name}/{path.name}", text))
    return items


def join_row(row: list[Recording], rng: np.random.Generator) -> np.ndarray:
    """Join recordings with a silence of 0.05 to 0.3 s before each and after the last: (L,)."""
    pieces = []
    for _, _, path in row:
        clip = audio.load_audio(path, RATE)
        pieces.append(np.zeros(int(rng.uniform(0.05, 0.3) * RATE)))
        pieces.append(0.1 * clip / (clip.std() + 1e-4))
    first_silence = pieces[0]
    return np.concatenate([*pieces, first_silence])


def write_manifests(options: argparse.Namespace) -> None:
    """Write the manifests and, with --join, the new recordings."""
    parts = {part: find_recordings(options.recordings, part) for part in PARTS}
    if not any(parts.values()):
        raise ValueError(
            f"{options.recordings}: no recordings named {{digit}}_{{speaker}}_{{index}}.wav"
        )

    options.folder.mkdir(parents=True, exist_ok=True)
    for number, (part, recordings) in enumerate(parts.items()):
        if not recordings:
            continue
        items = list_single(recordings)
        if options.join:
            times = options.times if part == "train" else 1
            seed = options.seed * 3 + number
            items = write_joined(recordings, options.join, times, seed, options.folder / part)

        path = options.folder / f"{part}.jsonl"
        lines = [json.dumps({"audio": item.audio, "text": item.text}) + "\n" for item in items]
        path.write_text("".join(lines))
        print(f"{path}: {len(items)} lines")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--join", type=int, default=0, metavar="N", help="join up to N recordings to one"
    )
    parser.add_argument(
        "--times", type=int, default=1, help="how often train.jsonl has each of them then"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.join < 0 or options.times < 1:
        parser.error("expected --join 0 or more, --times 1 or more")
    try:
        write_manifests(options)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
