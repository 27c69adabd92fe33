# python -m tests.benchmarks.gpu --output FOLDER
"""All that is to be known of a GPU, in eight minutes: tests, speed, kernels of the attention.

Each part writes FOLDER/PART.txt, and is left out when that is there: a run that was stopped goes on
where it was. `--device cpu --small` shows anywhere that every part runs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

# The longest that each part may take, in seconds: 480 together.
LIMITS = {"tests": 120, "attention": 60, "speed": 210, "training": 90}
TIMED_SIDES = ("transformers", "core", "fast", "bfloat16", "transformers-bfloat16")


def part_commands(device: str, small: bool, folder: Path) -> dict[str, list[str]]:
    """Return the arguments of Python for each part; folder: where the pair is kept."""
    speed = ["-m", "tests.benchmarks.speed", "--device", device, "--folder", str(folder)]
    if small:
        speed += ["--small", "--repeat", "1", "--threads", "1"]
    else:
        speed += ["--repeat", "5"]
    attention = ["-m", "tests.benchmarks.gpu", "--attention", "--device", device]
    attention += ["--folder", str(folder)]
    if small:
        attention.append("--small")
    rows = ("encode", "greedy", "beam", "batch", "memory")
    return {
        "tests": ["-m", "pytest", "-q", "-m", "gpu", "-rs"],
        "attention": attention,
        "speed": [*speed, "--row", *rows, "--side", *TIMED_SIDES],
        "training": [*speed, "--row", "train", "--side", "core"],
    }


def run_part(name: str, command: list[str], output: Path) -> bool:
    """Run a part, and return whether it ended well; its text is complete only then."""
    started = time.perf_counter()
    unfinished = output / f"{name}.unfinished.txt"
    with unfinished.open("w") as file:
        try:
            done = subprocess.run(
                [sys.executable, *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=LIMITS[name],
                check=False,
            )
            result = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            result = f"not done after {LIMITS[name]} s"
    print(f"{name}: {result}, {time.perf_counter() - started:.0f} s", flush=True)

    # pytest's 5: all tests are deselected, as there is none for this machine.
    if result not in ("exit code 0", "exit code 5"):
        return False
    unfinished.rename(output / f"{name}.txt")
    return True


def time_attention(folder: Path, device: str, small: bool) -> None:
    """Print the time of encoding in bfloat16 with each kernel of SDPA, one and 16 waveforms."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    import nanos2t
    from tests.benchmarks.speed.limits import best_seconds
    from tests.benchmarks.speed.pair import RATE, find_pair

    model = nanos2t.load(find_pair(folder, small), device=device, dtype="bfloat16").model
    samples = RATE if small else 11 * RATE
    for rows in 1, 16:
        waveforms = torch.randn(rows, samples, device=device, dtype=torch.bfloat16)  # (B, L)
        for backend in SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH:
            with sdpa_kernel(backend), torch.inference_mode():
                try:
                    seconds = best_seconds(partial(model.encode, waveforms), device, 5)
                    result = f"{1e3 * seconds:.2f} ms"
                except RuntimeError as error:
                    result = str(error).partition("\n")[0]
            print(f"encode {rows} x {samples / RATE:g} s, {backend.name}: {result}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="a folder for the text of each part")
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--small", action="store_true", help="a tiny pair")
    parser.add_argument("--part", choices=LIMITS, nargs="+", default=list(LIMITS))
    parser.add_argument("--attention", action="store_true", help="this part alone, here")
    parser.add_argument("--folder", type=Path, help="where the pair is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or (options.output or Path(temporary)) / "pair"
        if options.attention:
            time_attention(folder, options.device, options.small)
            return 0
        if options.output is None:
            parser.error("--output is missing")

        options.output.mkdir(parents=True, exist_ok=True)
        commands = part_commands(options.device, options.small, folder)
        failed = []
        for name in options.part:
            if (options.output / f"{name}.txt").exists():
                print(f"{name}: was done before")
            elif not run_part(name, commands[name], options.output):
                failed.append(name)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
