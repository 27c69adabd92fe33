# python -m tests.benchmarks.soak --minutes 30
"""Continuous work, and whether memory stays flat: files good and broken, long and short, beams,
word times.

Prints a line of JSON each minute. The first fifth warms up; after it, the last line tells how far
memory went beyond the least of its medians by minute. Exit code 1 if that is more than 2 %.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from itertools import count
from pathlib import Path

import numpy as np

import nanos2t
from nanos2t.transcription.formats import FORMATS, render
from tests.benchmarks.many import RATE, make, sound


def megabytes() -> float:
    """What the process has for itself: what it maps of files comes and goes with the rest of the
    machine.
    """
    status = Path("/proc/self/status").read_text().split()
    return int(status[status.index("RssAnon:") + 1]) / 1024


def work(stt, folder: Path, number: int) -> float:
    """One round: other sounds each time, in small batches and large ones -> seconds of audio.

    The last call has as many pieces each time, so that rounds end alike.
    """
    names, _ = make(folder, 24, 3, 4.0, number)
    long = sound(np.random.default_rng(number), 60.0)
    done: list[float] = []
    for size, beams in (1, 1), (3, 2), (8, 3), (8, 1):
        language = stt.languages[(number + size) % len(stt.languages)]
        options = {
            "num_beams": beams,
            "words": size == 3,
            "language": language,
            "progress": done.append,
        }
        sources = [long, *names] if beams > 1 else names
        for outcome in stt.transcribe_many(
            sources, size, sample_rate=RATE, return_errors=True, **options
        ):
            if not isinstance(outcome, ValueError):
                render(outcome, list(FORMATS)[number % len(FORMATS)])
    return sum(done)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    stt, started, seconds = nanos2t.load(), time.monotonic(), 0.0
    samples: dict[int, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        for number in count():
            seconds += work(stt, Path(folder), number)
            minute = int((time.monotonic() - started) // 60)
            if minute not in samples and minute:
                found = {"minute": minute, "megabytes": round(samples[max(samples)][-1], 1)}
                print(
                    json.dumps(found | {"rounds": number, "audio_seconds": round(seconds)}),
                    flush=True,
                )
            samples[minute].append(megabytes())
            if time.monotonic() - started > 60 * options.minutes:
                break
    late = [
        statistics.median(values)
        for minute, values in samples.items()
        if minute >= options.minutes / 5
    ]
    growth = max(late) / min(late) - 1
    found = {"minutes": options.minutes, "rounds": number + 1, "audio_seconds": round(seconds)}
    print(json.dumps(found | {"megabytes": round(late[-1], 1), "spread": round(growth, 4)}))
    return 0 if growth <= 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
