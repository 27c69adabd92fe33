# python -m tests.benchmarks.speed
"""Time and memory compared with transformers: same weights, same threads, taking turns in one run.

The pair has the sizes of wav2vec2-base and bert-base-uncased (232 M parameters), random weights,
transformers' layout. transformers is as installed: SDPA, its cache, inference mode. 11 s of audio,
40 new tokens. Ours is run in three modes: the core as it is written, fast=True, and fast in int8
(in bfloat16 on a GPU). A ratio is transformers' float32 time over ours, so 2 is twice as fast, or
half the memory; no time counts before both have given the same numbers. Medians; in brackets the
lowest and the highest ratio of a turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

import nanos2t
from nanos2t.generate import decode_memory
from tests.helpers.pairs import spread_

RATE = 16_000  # Hz
SECONDS = 11  # of the waveform that is encoded
TOKENS = 40
UTTERANCES = 16  # of the batch

# The programs of the fresh processes: they load the model of one side, then use it.
LOAD_THEIRS = """from transformers import SpeechEncoderDecoderModel as Model
model = Model.from_pretrained({folder!r}).eval().to({device!r})
"""
LOAD_OURS = """import nanos2t
model = nanos2t.load({folder!r}, device={device!r}, **{options!r}).model
"""
USE = """import sys, torch
from pathlib import Path
torch.set_num_threads({threads})
{load}
weight = next(model.parameters())
x = torch.randn(1, {samples}, generator=torch.Generator().manual_seed(0)).to(weight)
with torch.inference_mode():
    model.generate(x, num_beams={beams}, max_new_tokens={tokens}, min_new_tokens={tokens})
status = Path("/proc/self/status")
words = status.read_text().split() if status.exists() else ["VmHWM:", "nan"]
if weight.is_cuda:
    words = ["VmHWM:", torch.cuda.max_memory_allocated() / 1024]
print(float(words[words.index("VmHWM:") + 1]) / 1024)
"""

Goals = dict[str, float]  # the ratio that each mode is meant to reach


@dataclass(frozen=True)
class Row:
    """What each side took in each turn: seconds, or megabytes."""

    name: str
    unit: str
    reach: float
    theirs: list[float]
    ours: list[float]

    def report(self) -> dict:
        """Return the medians, their ratio, and the lowest and highest ratio of a turn."""
        theirs = statistics.median(self.theirs)
        ours = statistics.median(self.ours)
        ratios = [a / b for a, b in zip(self.theirs, self.ours)]
        return {
            "row": self.name,
            "unit": self.unit,
            "transformers": theirs,
            "nanos2t": ours,
            "ratio": theirs / ours,
            "lowest": min(ratios),
            "highest": max(ratios),
            "reach": self.reach,
        }


def build_pair(folder: Path) -> None:
    """Save the pair as transformers does, with random weights."""
    import transformers as hf

    decoder = hf.BertConfig(is_decoder=True, add_cross_attention=True)
    ids = {"decoder_start_token_id": 101, "pad_token_id": 0, "eos_token_id": 102}
    config = hf.SpeechEncoderDecoderConfig(
        encoder=hf.Wav2Vec2Config().to_dict(), decoder=decoder.to_dict(), **ids
    )
    model = spread_(hf.SpeechEncoderDecoderModel(config))
    predictions = model.decoder.cls.predictions
    predictions.bias.data.copy_(predictions.decoder.bias.data)
    model.save_pretrained(folder)


def time_turns(sides: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Return the seconds of each side, each once in a turn; a turn before them warms up."""
    seconds = {name: [] for name in sides}
    for turn in range(count + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


class Bench:
    """The same weights in transformers' model, and in ours in three modes."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        from transformers import SpeechEncoderDecoderModel

        self.folder = folder
        self.options = options

        # What nanos2t.load is told in each mode: the core is what it gives by itself.
        self.modes = {"core": {}, "fast": {"fast": True}}
        if options.dtype:
            self.modes[options.dtype] = {"fast": True, "dtype": options.dtype}

        self.theirs = SpeechEncoderDecoderModel.from_pretrained(folder).eval().to(options.device)
        self.ours = {
            mode: nanos2t.load(folder, device=options.device, **keywords)
            for mode, keywords in self.modes.items()
        }

        noise = torch.Generator().manual_seed(0)
        self.waveform = torch.randn(1, SECONDS * RATE, generator=noise).to(options.device)  # (1, L)
        lengths = torch.linspace(3, 15, UTTERANCES)[torch.randperm(UTTERANCES, generator=noise)]
        self.utterances = [
            torch.randn(int(length), generator=noise).numpy() for length in lengths * RATE
        ]

    def weight_dtype(self, mode: str) -> torch.dtype:
        """Return the dtype of what the model of a mode takes."""
        return self.ours[mode].model.decoder.embed.tokens.weight.dtype

    def take_turns(
        self, name: str, unit: str, goals: Goals, sides: dict[str, Callable], scale: float = 1.0
    ) -> list[Row]:
        """Time the sides. Return the rows of all modes; `scale` seconds are one unit."""
        times = time_turns(sides, self.options.repeat)
        times = {side: [seconds / scale for seconds in times[side]] for side in times}
        return self.make_rows(name, unit, goals, times)

    def make_rows(
        self, name: str, unit: str, goals: Goals, values: dict[str, list[float]]
    ) -> list[Row]:
        """Return a row for each mode, beside transformers' values."""
        theirs = values["transformers"]
        return [
            Row(f"{name}, {mode}", unit, goals.get(mode, goals["int8"]), theirs, values[mode])
            for mode in self.modes
        ]

    def encode(self) -> list[Row]:
        """Encode the waveform."""
        theirs = self.theirs.encoder(self.waveform).last_hidden_state  # (1, S, H)
        sides = {"transformers": lambda: self.theirs.encoder(self.waveform)}
        for mode, stt in self.ours.items():
            waveform = self.waveform.to(self.weight_dtype(mode))
            sides[mode] = partial(stt.model.encode, waveform)

            # int8 and bfloat16 are allowed to differ.
            if mode in ("core", "fast"):
                error = (sides[mode]()[0] - theirs).abs().max().item()
                assert error < 1e-3 < theirs.std(), f"{mode}: encoders differ by {error}"
        goals = {"core": 1.0, "fast": 1.5, "int8": 2.6}
        return self.take_turns(f"encode {SECONDS} s", "ms", goals, sides, 1e-3)

    def token(self, name: str, beams: int, goals: Goals) -> list[Row]:
        """Decode the waveform's memory to TOKENS tokens."""
        from transformers.modeling_outputs import BaseModelOutput

        # Both decode the same memory, so that the encoder is not timed.
        memory = self.ours["core"].model.encode(self.waveform)[0]  # (1, S, H)
        search = {"num_beams": beams, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}

        def run_theirs() -> torch.Tensor:
            return self.theirs.generate(encoder_outputs=BaseModelOutput(memory.clone()), **search)

        theirs = run_theirs()
        sides = {"transformers": run_theirs}
        for mode, stt in self.ours.items():
            mode_memory = memory.to(self.weight_dtype(mode))
            sides[mode] = partial(decode_memory, stt.model, mode_memory, None, search)

            # Only int8 and bfloat16 may choose other tokens.
            if mode in ("core", "fast"):
                tokens = sides[mode]().sequences
                assert tokens.shape[1] == TOKENS + 1, f"{mode}: {tokens.shape[1]} tokens"
                assert torch.equal(tokens, theirs), f"{mode}, {beams} beams: other tokens"
        return self.take_turns(name, "ms", goals, sides, 1e-3 * TOKENS)

    def greedy(self) -> list[Row]:
        return self.token("greedy, a token", 1, {"core": 1.0, "fast": 1.5, "int8": 4.0})

    def beam(self) -> list[Row]:
        return self.token("beam 5, a token", 5, {"core": 1.0, "fast": 2.0, "int8": 5.0})

    def batch(self) -> list[Row]:
        """Transcribe 16 utterances: padded to the longest by transformers, in batches of 4 by ours.

        Ours are sorted by length. Padding changes transformers' numbers, so our tokens are compared
        with those that it generates for one utterance alone.
        """
        search = {"num_beams": 1, "max_new_tokens": 20, "min_new_tokens": 20}
        values, mask = self.ours["core"].prepare(self.utterances)  # 2 x (B, L)
        order = sorted(range(UTTERANCES), key=lambda i: len(self.utterances[i]))

        def run_ours(stt) -> dict[int, list[int]]:
            tokens = {}
            for start in range(0, UTTERANCES, 4):
                numbers = order[start : start + 4]
                inputs = stt.prepare([self.utterances[number] for number in numbers])
                tokens |= zip(numbers, stt.model.generate(*inputs, **search).tolist())
            return tokens

        sides = {
            "transformers": lambda: self.theirs.generate(values, attention_mask=mask, **search)
        }
        for mode, stt in self.ours.items():
            sides[mode] = partial(run_ours, stt)

        # The first utterances, each against transformers' tokens for it alone.
        for mode in "core", "fast":
            ours = sides[mode]()
            for i in range(3):
                utterance = values[i : i + 1, : mask[i].sum()]  # (1, L)
                alone = self.theirs.generate(utterance, **search)[0].tolist()
                assert ours[i] == alone and len(alone) == 21, f"{mode}, utterance {i}: other tokens"
        goals = {"core": 1.0, "fast": 1.5, "int8": 1.5}
        return self.take_turns(f"{UTTERANCES} utterances of 3 to 15 s", "s", goals, sides)

    def run_processes(self, beams: int, tokens: int) -> tuple[dict, dict]:
        """Run fresh processes that import, load and generate. Return seconds, and megabytes."""
        seconds = {}
        megabytes = {}
        for side in ("transformers", *self.modes):
            load = LOAD_THEIRS if side == "transformers" else LOAD_OURS
            load = load.format(
                folder=str(self.folder),
                device=self.options.device,
                options=self.modes.get(side, {}),
            )
            code = USE.format(
                load=load,
                threads=torch.get_num_threads(),
                samples=SECONDS * RATE,
                beams=beams,
                tokens=tokens,
            )
            seconds[side] = []
            megabytes[side] = []
            for _ in range(self.options.repeat):
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
                )
                seconds[side].append(time.perf_counter() - started)
                megabytes[side].append(float(done.stdout))
        return seconds, megabytes

    def cold(self) -> list[Row]:
        """Start a process that generates 5 tokens."""
        seconds, _ = self.run_processes(1, 5)
        goals = {"core": 1.0, "fast": 2.5, "int8": 2.5}
        return self.make_rows("import, load, 5 tokens", "s", goals, seconds)

    def memory(self) -> list[Row]:
        """Generate TOKENS tokens with 5 beams in a process, and look at its peak memory."""
        _, megabytes = self.run_processes(5, TOKENS)
        goals = {"core": 1.0, "fast": 1.25, "int8": 2.0}
        return self.make_rows("peak memory, beam 5", "MB", goals, megabytes)


ROWS = ("encode", "greedy", "beam", "batch", "cold", "memory")
LINE = (
    "{row:40} {transformers:9.2f} {nanos2t:9.2f} {unit:3} {ratio:6.2f}"
    "  ({lowest:.2f} to {highest:.2f}; reach {reach})"
)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, nargs="+", default=ROWS, help="default: all")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns; default: 7, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="few turns")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row")
    parser.add_argument(
        "--dtype", help='of the third mode, "" for none; default: int8, on a GPU bfloat16'
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, help="keep the model there; default: a temporary folder"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s"
    )
    return parser


def main() -> None:
    options = build_parser().parse_args()
    if not options.repeat:
        options.repeat = 2 if options.quick else 7
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device here")
        return
    if options.dtype is None:
        options.dtype = "int8" if options.device == "cpu" else "bfloat16"

    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").exists():
            build_pair(folder)
        bench = Bench(folder, options)
        for name in options.row:
            for row in getattr(bench, name)():
                report = row.report()
                line = json.dumps(report) if options.json else LINE.format(**report)
                print(line, flush=True)


if __name__ == "__main__":
    main()
