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
import gc
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

# oneDNN keeps up to 1,024 compiled products, of other shapes each: they fill up for hours. With
# few of them what grows here is a leak. It reads this once, when it is loaded.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

import nanos2t
from nanos2t.transcription.formats import FORMATS, render
from tests.benchmarks.many import RATE, make_files, make_sound

MAX_SPREAD = 0.01


def read_malloc_info() -> str:
    """Return what glibc tells of its memory, as XML: `man malloc_info`."""
    libc = ctypes.CDLL("libc.so.6")
    libc.open_memstream.restype = ctypes.c_void_p
    text = ctypes.c_char_p()
    size = ctypes.c_size_t()
    stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(text), ctypes.byref(size)))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    document = text.value.decode()
    libc.free(text)
    return document


def used_megabytes() -> float:
    """Return the memory that was allocated and not freed, by all threads: what a leak adds to."""
    gc.collect()
    facts = ElementTree.fromstring(read_malloc_info())

    # What the heaps have from the system, less what is free in them, and blocks mapped on their own
    (held,) = [int(one.get("size")) for one in facts.findall("system[@type='current']")]
    totals = {one.get("type"): int(one.get("size")) for one in facts.findall("total")}
    return (held - totals["fast"] - totals["rest"] + totals["mmap"]) / 2**20


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
