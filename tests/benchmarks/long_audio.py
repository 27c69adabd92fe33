# python tests/benchmarks/long_audio.py
"""Memory and speed over hours: the bundled sample every nine seconds or so, in noise, in WAV files.

Prints a line of JSON for each length: how much memory the process took at most, how many times
faster than real time it was, loading included, and whether each sample has the text that it has
alone.
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


def write_recording(path: Path, minutes: float, sample: np.ndarray) -> int:
    """Write a recording, a minute at a time. Return how often the sample is in it."""
    random = np.random.default_rng(0)
    count = 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(round(minutes)):
            block = 1e-4 * random.standard_normal(60 * RATE)
            for start in range(RATE // 2, 55 * RATE, 9 * RATE):
                block[start : start + len(sample)] += sample
                count += 1
            file.write(block)
    return count


def transcribe_recording(path: Path, minutes: float, expected: list[str]) -> dict:
    """Run the command line on a recording. Return its measures; `expected` are the words."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "nanos2t", "transcribe", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    text = process.stdout.read().decode()

    # wait4 also tells what the process used.
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    return {
        "minutes": minutes,
        "exit": os.waitstatus_to_exitcode(status),
        "megabytes": round(usage.ru_maxrss / 1024, 1),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "times_real_time": round(minutes * 60 / seconds, 1),
        "heard_right": text.split() == expected,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60, 180])
    options = parser.parse_args()

    stt = nanos2t.load(fast=True)
    sample = stt.load_audio(BUNDLED.parent / "sample.wav")
    words = str(stt.transcribe(sample, sample_rate=RATE)).split()
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            path = Path(folder, "long.wav")
            count = write_recording(path, minutes, sample)
            measures = transcribe_recording(path, minutes, words * count)
            print(json.dumps(measures), flush=True)


if __name__ == "__main__":
    main()
