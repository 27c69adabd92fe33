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

RATE = 8000  # Hz
SUFFIXES = ("wav", "flac", "ogg", "wav", "mp3")
ROOT = Path(__file__).parents[2]
MAX_SCORE_DIFFERENCE = 1e-4


def make_sound(random: np.random.Generator, max_seconds: float) -> np.ndarray:
    """Return a part of the bundled sample at any speed, in noise: 0.1 to `max_seconds` (L,)."""
    sample, sample_rate = soundfile.read(BUNDLED.parent / "sample.wav", dtype="float32")
    speed = random.uniform(0.7, 1.4) * sample_rate / RATE
    speech = np.interp(np.arange(0, len(sample), speed), np.arange(len(sample)), sample)

    # What is longer than the sample repeats it.
    size = round(random.uniform(0.1, max_seconds) * RATE)
    start = random.integers(0, max(1, len(speech) - size))
    speech = np.resize(speech, start + size)[start:]

    loudness = random.uniform(0.2, 1)
    noise = 0.002 * random.standard_normal(size)
    return (loudness * speech + noise).astype(np.float32)


def write_sound(path: Path, waveform: np.ndarray) -> Path:
    subtype = {".wav": "PCM_16", ".ogg": "VORBIS"}.get(path.suffix)
    soundfile.write(path, waveform, RATE, subtype=subtype)
    return path


def write_broken(path: Path, number: int) -> Path:
    """Write a file that cannot be read, one of ten sorts by its number; the last is no file."""
    sort = number % 10
    if sort < 2:
        samples = np.zeros(4000, np.float32)
        samples[3000] = np.nan if number % 2 else np.inf
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    elif sort < 9:
        whole = write_sound(
            path.with_suffix(".flac"), np.sin(np.arange(9000, dtype=np.float32)) / 2
        )
        content = whole.read_bytes()
        whole.unlink()
        contents = [
            b"",
            b"text " * 300,
            content[:30],
            content[:-2000],
            content[:50] + bytes(3000),
            bytes(5000),
            b"RIFF",
        ]
        path.write_bytes(contents[sort - 2])
    return path


def make_files(
    folder: Path, count: int, num_broken: int, max_seconds: float, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Write files of any length, broken ones anywhere among them.

    Returns all names, and those of the broken ones.
    """
    random = np.random.default_rng(seed)
    broken_numbers = set(random.choice(count, num_broken, replace=False).tolist())
    names = []
    broken_names = []
    for i in range(count):
        if i in broken_numbers:
            path = write_broken(folder / f"{i:04}.wav", len(broken_names))
            broken_names.append(str(path))
        else:
            waveform = make_sound(random, max_seconds)
            path = write_sound(folder / f"{i:04}.{SUFFIXES[i % 5]}", waveform)
        names.append(str(path))
    return names, broken_names


def run_command(names: list[str], broken_names: list[str], folder: Path, *options: str) -> dict:
    """Run the command line once over all files. Return counts, and what is not as promised."""
    (folder / "list").write_text("\n".join(names))
    command = [sys.executable, "-m", "nanos2t", "transcribe"]
    command += ["--files-from", str(folder / "list"), "--output", str(folder / "out"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - started
    return {
        "files": len(names),
        "transcripts": len(os.listdir(folder / "out")),
        "lines_on_stderr": len(done.stderr.splitlines()),
        "exit": done.returncode,
        "seconds": round(seconds, 1),
        "problems": find_problems(done, names, broken_names, folder / "out"),
    }


def find_problems(
    done: subprocess.CompletedProcess, names: list[str], broken_names: list[str], output: Path
) -> list[str]:
    """List what a run did not do as promised."""
    # Each broken file has one line on stderr, and there are no other lines.
    problems = []
    lines = done.stderr.splitlines()
    for name in broken_names:
        own_lines = [line for line in lines if line.startswith(f"nanos2t: {name}: ")]
        if len(own_lines) != 1:
            problems.append(name)
    problems += [line for line in lines if not line.startswith("nanos2t: ")]
    if len(lines) != len(broken_names):
        problems.append(f"{len(lines)} lines on stderr")

    # All others have a file, with the text that went to stdout. There, a broken one has an empty
    # line.
    files = sorted(os.listdir(output))
    if files != [f"{Path(name).stem}.txt" for name in names if name not in broken_names]:
        problems.append("files")
    texts = []
    for name in names:
        file = output / f"{Path(name).stem}.txt"
        texts.append(file.read_text() if file.exists() else "\n")
    if "".join(texts) != done.stdout:
        problems.append("stdout is not what the files say")

    expected_code = 1 if broken_names else 0
    if done.returncode != expected_code:
        problems.append(f"exit code {done.returncode}")
    return problems


def compare_batches(stt, names: list[str], **options) -> dict:
    """Compare batches of eight with one by one: which texts differ, and how far scores do."""
    alone = [stt.transcribe(name, **options) for name in names]
    together = list(stt.transcribe_many(names, 8, **options))
    differing = []
    score_differences = []
    for name, one, other in zip(names, alone, together, strict=True):
        if one.text != other.text:
            differing.append(name)
        score_differences.append(abs(one.score - other.score))
    return {
        "compared": len(together),
        "texts": len({result.text for result in alone}),
        "differ": differing,
        "score_difference": max(score_differences),
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

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names, broken_names = make_files(folder, options.files, options.broken, 2.0, options.seed)
        report = run_command(names, broken_names, folder)

        longer = folder / "longer"
        longer.mkdir()
        names, _ = make_files(longer, options.compare, 0, 12.0, options.seed + 1)
        if names:
            report |= compare_batches(nanos2t.load(), names)
    print(json.dumps(report))

    is_far = report.get("score_difference", 0) > MAX_SCORE_DIFFERENCE
    return 1 if report["problems"] or report.get("differ") or is_far else 0


if __name__ == "__main__":
    sys.exit(main())
