# python -m tests.benchmarks.soak --minutes 30
"""Continuous work, and whether memory stays flat: files good and broken, long and short, beams,
word times.

Prints a line of JSON each minute: the memory in use, and the memory that the process holds. What
is freed in pieces of many sizes is kept by the C library to be used again, so that the second grows
for some hundreds of rounds, less and less. The first fifth of the time warms up; after it, the last
line tells how far the memory in use went beyond the least of its medians by minute. Exit code 1 if
that is more than 1 %.
"""

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np

import nanos2t
from nanos2t.transcription.formats import FORMATS, render
from tests.benchmarks.many import RATE, make_files, make_sound

MAX_SPREAD = 0.01


class Mallinfo(ctypes.Structure):
    """What glibc (2.33 or later) tells about its memory: `man mallinfo2`."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


def used_megabytes() -> float:
    """Return the memory that was allocated and not freed: what a leak adds to."""
    libc = ctypes.CDLL("libc.so.6")
    libc.mallinfo2.restype = Mallinfo
    facts = libc.mallinfo2()
    return (facts.uordblks + facts.hblkhd) / 2**20


def own_megabytes() -> float:
    """Return the memory of this process, without the files that it maps.

    How much of a file is in memory depends on what else the machine does.
    """
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024


def work(stt, folder: Path, number: int) -> float:
    """Transcribe other sounds in each round, in small batches and large ones.

    Returns the seconds of audio. The last call has as many chunks each time, so that rounds end
    alike.
    """
    names, _ = make_files(folder, 24, 3, 4.0, number)
    long = make_sound(np.random.default_rng(number), 60.0)
    format = list(FORMATS)[number % len(FORMATS)]
    seconds_done: list[float] = []
    for batch_size, num_beams in ((1, 1), (3, 2), (8, 3), (8, 1)):
        sources = [long, *names] if num_beams > 1 else names
        outcomes = stt.transcribe_many(
            sources,
            batch_size,
            sample_rate=RATE,
            language=stt.languages[(number + batch_size) % len(stt.languages)],
            words=batch_size == 3,
            return_errors=True,
            progress=seconds_done.append,
            num_beams=num_beams,
        )
        for outcome in outcomes:
            if not isinstance(outcome, ValueError):
                render(outcome, format)
    return sum(seconds_done)


def soak(stt, folder: Path, minutes: float) -> tuple[dict[int, list[float]], int, float]:
    """Work for some minutes, and print a line for each.

    Returns the megabytes in use after each round by minute, the number of rounds, and the seconds
    of audio.
    """
    samples: dict[int, list[float]] = defaultdict(list)
    started = time.monotonic()
    audio_seconds = 0.0
    rounds = 0
    while rounds == 0 or time.monotonic() - started <= 60 * minutes:
        audio_seconds += work(stt, folder, rounds)
        minute = int((time.monotonic() - started) // 60)

        # At the first round of a minute, report the last one of the minute before.
        if samples and minute not in samples:
            report = {
                "minute": minute,
                "in_use": round(samples[max(samples)][-1], 1),
                "megabytes": round(own_megabytes(), 1),
                "rounds": rounds,
                "audio_seconds": round(audio_seconds),
            }
            print(json.dumps(report), flush=True)
        samples[minute].append(used_megabytes())
        rounds += 1
    return samples, rounds, audio_seconds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()

    warnings.simplefilter("ignore")
    stt = nanos2t.load()
    with tempfile.TemporaryDirectory() as folder:
        samples, rounds, audio_seconds = soak(stt, Path(folder), options.minutes)

    # Compare the minutes after the warm-up. (A run of less than a minute has only that.)
    warm_minutes = [minute for minute in samples if minute >= options.minutes / 5]
    medians = [statistics.median(samples[minute]) for minute in warm_minutes or samples]
    spread = max(medians) / min(medians) - 1
    summary = {
        "minutes": options.minutes,
        "rounds": rounds,
        "audio_seconds": round(audio_seconds),
        "in_use": round(medians[-1], 1),
        "megabytes": round(own_megabytes(), 1),
        "spread": round(spread, 4),
    }
    print(json.dumps(summary))
    return 0 if spread <= MAX_SPREAD else 1


if __name__ == "__main__":
    sys.exit(main())
