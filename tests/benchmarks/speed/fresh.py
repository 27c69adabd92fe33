# python -m tests.benchmarks.speed.fresh SIDE FOLDER DEVICE THREADS SAMPLES BEAMS TOKENS
"""A fresh process that imports and loads one side, generates, and prints its peak of memory in MB.

The benchmark times it from outside. A peer that needs no torch does not import it.
"""

import sys
from pathlib import Path

import numpy as np

from tests.benchmarks.speed.sides import SIDES, load_side


def generate(name: str, folder: Path, device: str, numbers: list[int]) -> None:
    """Generate with one side; numbers: threads, samples, beams, tokens."""
    threads, samples, beams, tokens = numbers
    waveform = np.random.default_rng(0).standard_normal((1, samples), dtype=np.float32)
    if SIDES[name].program in ("transformers", "nanos2t"):
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
    side = load_side(name, folder, device, threads)
    side.decode(side.encode(waveform), beams, tokens)


def peak_megabytes(device: str) -> float:
    """Return the peak of this process, or of the GPU that it used; NaN where no file tells."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    words = status.read_text().split() if status.exists() else ["VmHWM:", "nan"]
    return float(words[words.index("VmHWM:") + 1]) / 1024


if __name__ == "__main__":
    generate(sys.argv[1], Path(sys.argv[2]), sys.argv[3], list(map(int, sys.argv[4:8])))
    print(peak_megabytes(sys.argv[3]))
