# python -m tests.benchmarks.speed
"""Time and memory compared with transformers and other peers: same weights, same threads, in turns.

The pair has the sizes of wav2vec2-base and bert-base-uncased (232 M parameters), random weights,
transformers' layout. 11 s of audio, 40 new tokens. A ratio is transformers' float32 time over a
side's, so 2 is twice as fast, or half the memory. No time counts before results were compared.
Medians; in brackets the lowest and the highest ratio of a turn. Before the times comes what the
machine can do, and beside each the least time that this allows, and how near the side is to it.
"""

import argparse
import json
import logging
import os
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from tests.benchmarks.speed.bench import ROWS, Bench
from tests.benchmarks.speed.limits import (
    BYTES,
    Machine,
    count_encoding,
    count_token,
    measure_machine,
)
from tests.benchmarks.speed.pair import RATE, find_pair
from tests.benchmarks.speed.sides import SIDES, find_reason, prepare_side
from tests.benchmarks.speed.table import HEADER


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, nargs="+", default=list(ROWS), help="default: all")
    parser.add_argument("--side", choices=SIDES, nargs="+", default=list(SIDES), help="likewise")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns; default: 7, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="few turns")
    parser.add_argument(
        "--small", action="store_true", help="a tiny pair: only to see that it runs"
    )
    parser.add_argument("--json", action="store_true", help="a JSON object for each line")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, help="keep the model there; default: a temporary folder"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s"
    )
    return parser


def choose_sides(wanted: list[str], device: str) -> list[str]:
    """Return the sides that can run, transformers and the core among them; name the others."""
    names = []
    for name in SIDES:
        if name not in wanted and name not in ("transformers", "core"):
            continue
        reason = find_reason(name, device)
        if reason is None:
            names.append(name)
        else:
            print(f"skipped: {name}: {reason}")
    return names


def prepare_sides(names: list[str], folder: Path, samples: int) -> list[str]:
    """Prepare the sides. Return those for which it worked, and say why for the others."""
    prepared = []
    for name in names:
        try:
            prepare_side(name, folder, samples)
            prepared.append(name)
        except Exception as error:  # whatever a peer's exporter raises
            first_line = str(error).strip().partition("\n")[0]
            print(f"skipped: {name}: {type(error).__name__}: {first_line}")
    return prepared


def print_limits(machine: Machine, bench: Bench, as_json: bool) -> None:
    """Print what the machine can do, and what a row needs."""
    frames = bench.memory.shape[1]
    decoder = bench.core.decoder
    works = {"encode": count_encoding(bench.core.encoder, bench.waveform.shape[1])}
    for beams in 1, 5:
        works[f"a token, {beams} rows"] = count_token(decoder, frames, beams, bench.tokens / 2)
    if as_json:
        print(json.dumps({"machine": asdict(machine)}))
        print(json.dumps({name: asdict(work) for name, work in works.items()}))
        return
    for dtype, speed in machine.multiplications.items():
        print(f"{dtype:10} {speed / 1e9:8.0f} G multiplications a second")
    for size, speed in machine.read.items():
        print(f"reading {size / 2**20:4.0f} MB {speed / 1e9:6.1f} GB/s")
    for name, work in works.items():
        print(
            f"{name:16} {work.multiplications / 1e6:9.1f} M multiplications, "
            f"{work.weights / 1e6:6.1f} M weights, "
            f"{work.keys_values / 1e6:5.1f} M of keys and values"
        )
    print(HEADER)


def main() -> None:
    options = build_parser().parse_args()
    if not options.repeat:
        options.repeat = 2 if options.quick else 7
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device here")
        return
    options.seconds, options.tokens = (1.0, 6) if options.small else (11.0, 40)

    # What loading and exporting tells on the way is not what is asked for here.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore"

    torch.set_num_threads(options.threads)
    names = choose_sides(options.side, options.device)
    with tempfile.TemporaryDirectory() as temporary:
        folder = find_pair(options.folder or Path(temporary), options.small)
        names = prepare_sides(names, folder, int(options.seconds * RATE))
        with torch.inference_mode():
            run_rows(folder, options, names)


def run_rows(folder: Path, options: argparse.Namespace, names: list[str]) -> None:
    """Time the rows, and print them as they come."""
    dtypes = [dtype for dtype in BYTES if any(SIDES[name].dtype == dtype for name in names)]
    machine = measure_machine(options.device, dtypes, options.small)
    bench = Bench(folder, options, names, machine)
    print_limits(machine, bench, options.json)
    for name in options.row:
        for line in ROWS[name](bench):
            text = json.dumps(line.as_dict()) if options.json else str(line)
            print(text, flush=True)


if __name__ == "__main__":
    main()
