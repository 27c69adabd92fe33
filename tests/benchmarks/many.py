# python -m tests.benchmarks.many
"""A thousand short files in one run, fifty of them broken, and batches against one by one.

Prints a line of JSON: what the command line did (transcripts, lines on stderr, exit code, seconds),
and how far the results of a batch are from those of each file alone. Exit code 1 if anything is not
as promised.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

import nanos2t
from nanos2t.transcription.loading import BUNDLED

RATE = 8000
KINDS = ("wav", "flac", "ogg", "wav", "mp3")
ROOT = Path(__file__).parents[2]


def sound(random: np.random.Generator, most: float) -> np.ndarray:
    """A part of the bundled sample at any speed, in noise, of 0.1 to `most` seconds."""
    sample = soundfile.read(BUNDLED.parent / "sample.wav", dtype="float32")[0]
    speed = (
        random.uniform(0.7, 1.4) * soundfile.info(BUNDLED.parent / "sample.wav").samplerate / RATE
    )
    spoken = np.interp(np.arange(0, len(sample), speed), np.arange(len(sample)), sample)
    size = round(random.uniform(0.1, most) * RATE)
    start = random.integers(0, max(1, len(spoken) - size))
    spoken = np.resize(spoken, start + size)[start:]
    return (random.uniform(0.2, 1) * spoken + 0.002 * random.standard_normal(size)).astype(
        np.float32
    )


def write(path: Path, waveform: np.ndarray) -> Path:
    subtype = {".wav": "PCM_16", ".ogg": "VORBIS"}.get(path.suffix)
    soundfile.write(path, waveform, RATE, subtype=subtype)
    return path


def spoil(path: Path, number: int) -> Path:
    """A file that cannot be read, one of ten sorts; the last is none at all."""
    whole = write(path.with_suffix(".flac"), np.sin(np.arange(9000, dtype=np.float32)) / 2)
    content = whole.read_bytes()
    whole.unlink()
    samples = np.zeros(4000, np.float32)
    samples[3000] = np.nan if number % 2 else np.inf
    if number % 10 < 2:
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    elif number % 10 < 9:
        path.write_bytes(
            (
                b"",
                b"text " * 300,
                content[:30],
                content[:-2000],
                content[:50] + bytes(3000),
                bytes(5000),
                b"RIFF",
            )[number % 10 - 2]
        )
    return path


def make(
    folder: Path, count: int, broken: int, most: float, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Files of any length, those that are broken anywhere among them: all names, and the broken
    ones'.
    """
    random = np.random.default_rng(seed)
    bad = {*random.choice(count, broken, replace=False).tolist()}
    names, spoiled = [], []
    for i in range(count):
        if i in bad:
            names.append(str(spoil(folder / f"{i:04}.wav", len(spoiled))))
            spoiled.append(names[-1])
        else:
            names.append(str(write(folder / f"{i:04}.{KINDS[i % 5]}", sound(random, most))))
    return names, spoiled


def run(names: list[str], spoiled: list[str], folder: Path, *options: str) -> dict:
    """One run of the command line over all: counts, and a list of what is not as promised."""
    (folder / "list").write_text("\n".join(names))
    command = [
        sys.executable,
        "-m",
        "nanos2t",
        "transcribe",
        "--files-from",
        folder / "list",
        *options,
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    command += ["--output", folder / "out"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - started
    said, files = done.stderr.splitlines(), sorted(os.listdir(folder / "out"))
    good = [name for name in names if name not in spoiled]
    problems = [
        name for name in spoiled if sum(line.startswith(f"nanos2t: {name}: ") for line in said) != 1
    ]
    problems += [line for line in said if not line.startswith("nanos2t: ")]
    problems += ["files"] * (files != [f"{Path(name).stem}.txt" for name in good])
    written = "".join((folder / "out" / file).read_text() for file in files)
    problems += ["stdout is not what the files say"] * (written != done.stdout)
    problems += [f"exit code {done.returncode}"] * (done.returncode != bool(spoiled))
    problems += [f"{len(said)} lines on stderr"] * (len(said) != len(spoiled))
    counts = {
        "files": len(names),
        "transcripts": len(done.stdout.splitlines()),
        "lines_on_stderr": len(said),
    }
    return {**counts, "exit": done.returncode, "seconds": round(seconds, 1), "problems": problems}


def compare(stt, names: list[str], **options) -> dict:
    """Batches of eight against one by one: how many texts differ, and how far apart scores are at
    most.
    """
    alone = [stt.transcribe(name, **options) for name in names]
    together = list(stt.transcribe_many(names, 8, **options))
    differing = [name for name, one, other in zip(names, alone, together) if one.text != other.text]
    scores = [abs(one.score - other.score) for one, other in zip(alone, together)]
    texts = len({one.text for one in alone})
    return {
        "compared": len(together),
        "texts": texts,
        "differ": differing,
        "score_difference": max(scores),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--broken", type=int, default=50, help="of these; default: %(default)s")
    parser.add_argument(
        "--compare", type=int, default=200, help="files of up to 12 s; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(
            *make(Path(folder), options.files, options.broken, 2.0, options.seed), Path(folder)
        )
        (longer := Path(folder, "longer")).mkdir()
        names, _ = make(longer, options.compare, 0, 12.0, options.seed + 1)
        found |= compare(nanos2t.load(), names) if names else {}
    print(json.dumps(found))
    return (
        1
        if found["problems"] or found.get("differ") or found.get("score_difference", 0) > 1e-4
        else 0
    )


if __name__ == "__main__":
    sys.exit(main())
