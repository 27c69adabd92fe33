# python -m tests.benchmarks.growth --output growth.png
"""How time and memory grow beside transformers': with seconds of audio, beams, and utterances in a
batch.

The pair is that of tests/benchmarks/speed.py. Each point is a process of its own, which imports,
loads, warms up, and says the median of some turns and its peak memory; a table is printed, and
drawn with --output.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.speed import RATE, build

AXES = {  # name: values, what is timed
    "encode, seconds of audio": (5, 10, 20, 40),
    "a token of an 11 s clip, beams": (1, 2, 4, 8, 16),
    "10 tokens each, utterances of 5 s": (1, 2, 4, 8, 16, 32),
}
SIDES = ("transformers", "nanos2t", "nanos2t int8")
POINT = """import json, statistics, sys, time, torch
from pathlib import Path
torch.set_num_threads({threads})
if {side!r} == "transformers":
    from transformers import SpeechEncoderDecoderModel
    model = SpeechEncoderDecoderModel.from_pretrained({folder!r}).eval()
    encode = lambda x: model.encoder(x)
else:
    import nanos2t
    dtype = "int8" if "int8" in {side!r} else "float32"
    model = nanos2t.load({folder!r}, dtype=dtype, fast=True).model
    encode = model.encode
def run(x, **how):
    started = time.perf_counter()
    model.generate(x, **how) if how else encode(x)
    return time.perf_counter() - started
with torch.inference_mode():
    x = torch.randn({rows}, {samples}, generator=torch.Generator().manual_seed(0))
    hows = [dict(num_beams={beams}, max_new_tokens=n, min_new_tokens=n) for n in {tokens}] or [{{}}]
    turns = [[run(x, **how) for how in hows] for _ in range({repeat} + 1)][1:]
taken = [turn[-1] - (turn[0] if len(turn) > 1 else 0) for turn in turns]  # without the encoder
words = Path("/proc/self/status").read_text().split()
print(json.dumps([statistics.median(taken), int(words[words.index("VmHWM:") + 1]) / 1024]))
"""


def measure(
    side: str, axis: str, value: int, folder: Path, threads: int, repeat: int
) -> tuple[float, float]:
    """Milliseconds and megabytes at one point."""
    how = {"rows": 1, "samples": 11 * RATE, "beams": 1, "tokens": [], "repeat": repeat}
    if axis.startswith("encode"):
        how["samples"], scale = value * RATE, 1e3
    elif "beams" in axis:
        how |= {"beams": value, "tokens": [2, 22]}
        scale = 1e3 / 20
    else:
        how |= {"rows": value, "samples": 5 * RATE, "tokens": [10]}
        scale = 1e3
    code = POINT.format(side=side, folder=str(folder), threads=threads, **how)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    if done.returncode:
        sys.exit(f"{side}, {axis} {value}: {done.stderr.decode().splitlines()[-1]}")
    seconds, megabytes = json.loads(done.stdout)
    return seconds * scale, megabytes


def draw(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(2, len(AXES), figsize=(13, 7), layout="constrained")
    for column, axis in enumerate(AXES):
        for row, what in enumerate(("ms", "MB, peak of the process")):
            panel = panels[row, column]
            for side in SIDES:
                points = [(value, found[axis, side, value][row]) for value in AXES[axis]]
                panel.plot(*zip(*points), marker="o", label=side)
            panel.set_title(axis if row == 0 else "")
            panel.set_xticks(AXES[axis])
            panel.set_ylim(bottom=0)
            panel.set_ylabel(what if column == 0 else "")
            panel.grid(alpha=0.3)
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
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").exists():
            build(folder)
        for axis, values in AXES.items():
            print("\n" + axis)
            for value in values:
                for side in SIDES:
                    found[axis, side, value] = measure(
                        side, axis, value, folder, options.threads, options.repeat
                    )
                cells = (f"{side} {ms:8.0f} ms {mb:6.0f} MB" for side, (ms, mb) in
                         ((side, found[axis, side, value]) for side in SIDES))  # fmt: skip
                print(f"{value:4}  " + "   ".join(cells), flush=True)
    if options.output:
        draw(found, options.output)


if __name__ == "__main__":
    main()
