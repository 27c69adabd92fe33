# python -m tests.benchmarks.growth --output growth.png
"""How time and memory grow beside transformers': with seconds of audio, beams, and utterances in a
batch.

The pair is that of tests/benchmarks/speed/. Each point is a process of its own, which imports,
loads, warms up, and prints the median of some turns and its peak memory; a table is printed, and
drawn with --output.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.speed.pair import RATE, find_pair

AXES = {  # what is timed, and along which values
    "encode, seconds of audio": (5, 10, 20, 40),
    "a token of an 11 s clip, beams": (1, 2, 4, 8, 16),
    "greedy search in an 11 s clip, tokens": (10, 40, 160, 320),
    "10 tokens each, utterances of 5 s": (1, 2, 4, 8, 16, 32),
}
SIDES = ("transformers", "nanos2t", "nanos2t int8")

# What the process of a point runs. `tokens` are the numbers of new tokens to generate, without any
# it only encodes. Of two numbers the difference is timed, which is decoding without the encoder.
POINT = """import json, statistics, sys, time, torch
from pathlib import Path
torch.set_num_threads({threads})
if {side!r} == "transformers":
    from transformers import SpeechEncoderDecoderModel
    model = SpeechEncoderDecoderModel.from_pretrained({folder!r}).eval()
    encode = model.encoder
else:
    import nanos2t
    dtype = "int8" if "int8" in {side!r} else "float32"
    model = nanos2t.load({folder!r}, dtype=dtype, fast=True).model
    encode = model.encode

def run(x, count):
    started = time.perf_counter()
    if count is None:
        encode(x)
    else:
        model.generate(x, num_beams={beams}, max_new_tokens=count, min_new_tokens=count)
    return time.perf_counter() - started

counts = {tokens} or [None]
seconds = []
with torch.inference_mode():
    x = torch.randn({rows}, {samples}, generator=torch.Generator().manual_seed(0))
    for turn in range({repeat} + 1):
        times = [run(x, count) for count in counts]
        if turn > 0:
            seconds.append(times[-1] - times[0] if len(times) > 1 else times[0])

words = Path("/proc/self/status").read_text().split()
megabytes = int(words[words.index("VmHWM:") + 1]) / 1024
print(json.dumps([statistics.median(seconds), megabytes]))
"""


def measure_point(
    side: str, axis: str, value: int, folder: Path, threads: int, repeat: int
) -> tuple[float, float]:
    """Return milliseconds and megabytes at one point."""
    settings = {"rows": 1, "samples": 11 * RATE, "beams": 1, "tokens": [], "repeat": repeat}
    milliseconds = 1e3
    if axis.startswith("encode"):
        settings["samples"] = value * RATE
    elif axis.endswith("tokens"):
        settings["tokens"] = [2, value + 2]
    elif "beams" in axis:
        # The difference is 20 tokens.
        settings |= {"beams": value, "tokens": [2, 22]}
        milliseconds = 1e3 / 20
    else:
        settings |= {"rows": value, "samples": 5 * RATE, "tokens": [10]}

    code = POINT.format(side=side, folder=str(folder), threads=threads, **settings)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    if done.returncode:
        sys.exit(f"{side}, {axis} {value}: {done.stderr.decode().splitlines()[-1]}")
    seconds, megabytes = json.loads(done.stdout)
    return seconds * milliseconds, megabytes


def draw(points: dict[tuple[str, str, int], tuple[float, float]], path: Path) -> None:
    """Draw milliseconds and megabytes of all (axis, side, value), a column for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, len(AXES), figsize=(16, 7), layout="constrained")
    for row, unit in enumerate(("ms", "MB, peak of the process")):
        panels[row, 0].set_ylabel(unit)
        for column, axis in enumerate(AXES):
            panel = panels[row, column]
            for side in SIDES:
                heights = [points[axis, side, value][row] for value in AXES[axis]]
                panel.plot(AXES[axis], heights, marker="o", label=side)
            panel.set_xticks(AXES[axis])
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
    for column, axis in enumerate(AXES):
        panels[0, column].set_title(axis)
    panels[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="keep the model there; default: a temporary folder"
    )
    parser.add_argument("--output", type=Path, metavar="PNG", help="a picture, with matplotlib")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="turns; default: %(default)s"
    )
    options = parser.parse_args()

    points = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = find_pair(options.folder or Path(temporary))
        for axis, values in AXES.items():
            print("\n" + axis)
            for value in values:
                cells = []
                for side in SIDES:
                    point = measure_point(
                        side, axis, value, folder, options.threads, options.repeat
                    )
                    points[axis, side, value] = point
                    cells.append("{} {:8.0f} ms {:6.0f} MB".format(side, *point))
                print(f"{value:4}  " + "   ".join(cells), flush=True)
    if options.output:
        draw(points, options.output)


if __name__ == "__main__":
    main()
