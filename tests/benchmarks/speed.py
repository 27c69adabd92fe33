# python -m tests.benchmarks.speed
"""Time and memory beside transformers', same weights, same threads, taking turns in one run.

The pair has the sizes of wav2vec2-base and bert-base-uncased (232 M parameters), random weights,
transformers' layout. transformers is as installed: SDPA, its cache, inference mode. 11 s of audio, 40 new
tokens. A ratio is transformers' float32 over ours, so 2 is twice as fast, or half the memory; no time counts
before both have given the same numbers. Medians; in brackets the lowest and the highest ratio of a turn.
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
from pathlib import Path

import torch

import nanos2t
from nanos2t.generate import decode_memory
from tests.helpers.pairs import spread_

RATE, SECONDS, TOKENS, UTTERANCES = 16_000, 11, 40, 16
LOAD = {
    "transformers": "from transformers import SpeechEncoderDecoderModel as Model\n"
    "model = Model.from_pretrained({folder!r}).eval().to({device!r})\n",
    "nanos2t": "import nanos2t\nmodel = nanos2t.load({folder!r}, device={device!r}).model\n",
    "fast": "import nanos2t\nmodel = nanos2t.load({folder!r}, device={device!r}, dtype={dtype!r}, fast=True).model\n",
}
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


@dataclass(frozen=True)
class Row:
    """What each side took in each turn: seconds, or megabytes."""

    name: str
    unit: str
    reach: float
    theirs: list[float]
    ours: list[float]

    def report(self) -> dict:
        theirs, ours = statistics.median(self.theirs), statistics.median(self.ours)
        turns = sorted(a / b for a, b in zip(self.theirs, self.ours))
        return {"row": self.name, "unit": self.unit, "transformers": theirs, "nanos2t": ours,
                "ratio": theirs / ours, "lowest": turns[0], "highest": turns[-1],
                "reach": self.reach}  # fmt: skip


def build(folder: Path) -> None:
    """The pair, saved by transformers."""
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


def turns(sides: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds of each side, each once in a turn; a turn before them warms up."""
    found = {name: [] for name in sides}
    for turn in range(count + 1):
        for name, side in sides.items():
            started = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                found[name].append(time.perf_counter() - started)
    return found


class Bench:
    def __init__(self, folder: Path, options: argparse.Namespace):
        from transformers import SpeechEncoderDecoderModel

        self.folder, self.options = folder, options
        where = {"device": options.device}
        self.theirs = SpeechEncoderDecoderModel.from_pretrained(folder).eval().to(options.device)
        self.stt = nanos2t.load(folder, **where)
        self.fast = (
            nanos2t.load(folder, dtype=options.fast, fast=True, **where) if options.fast else None
        )
        noise = torch.Generator().manual_seed(0)
        self.waveform = torch.randn(1, SECONDS * RATE, generator=noise).to(options.device)  # (1, L)
        lengths = (
            torch.linspace(3, 15, UTTERANCES)[torch.randperm(UTTERANCES, generator=noise)] * RATE
        )
        self.utterances = [torch.randn(int(length), generator=noise).numpy() for length in lengths]

    def against(
        self, name: str, unit: str, reach: tuple, sides: dict, scale: float = 1.0
    ) -> list[Row]:
        """Rows for float32 and the fast mode out of turns; `scale` seconds are one unit."""
        taken = {
            side: [s / scale for s in times]
            for side, times in turns(sides, self.options.repeat).items()
        }
        rows = [Row(f"{name}, float32", unit, reach[0], taken["transformers"], taken["nanos2t"])]
        if "fast" in taken:
            label = f"{name}, {self.options.fast}"
            rows.append(Row(label, unit, reach[1], taken["transformers"], taken["fast"]))
        return rows

    def encode(self) -> list[Row]:
        theirs = self.theirs.encoder(self.waveform).last_hidden_state
        ours = self.stt.model.encode(self.waveform)[0]
        error = (ours - theirs).abs().max().item()
        assert error < 1e-3 < theirs.std(), f"encoders differ by {error}"
        sides = {
            "transformers": lambda: self.theirs.encoder(self.waveform),
            "nanos2t": lambda: self.stt.model.encode(self.waveform),
        }
        if self.fast:
            waveform = self.waveform.to(self.fast.model.decoder.embed.tokens.weight.dtype)
            sides["fast"] = lambda: self.fast.model.encode(waveform)
        return self.against(f"encode {SECONDS} s", "ms", (1.5, 2.6), sides, 1e-3)

    def token(self, beams: int, reach: tuple[float, float]) -> list[Row]:
        from transformers.modeling_outputs import BaseModelOutput

        memory = self.stt.model.encode(self.waveform)[0]
        how = {"num_beams": beams, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}

        def theirs():
            return self.theirs.generate(encoder_outputs=BaseModelOutput(memory.clone()), **how)

        def ours():
            return decode_memory(self.stt.model, memory, None, how).sequences

        assert ours().shape[1] == TOKENS + 1 and torch.equal(ours(), theirs()), (
            f"{beams} beams: other tokens"
        )
        sides = {"transformers": theirs, "nanos2t": ours}
        if self.fast:
            heard = memory.to(self.fast.model.decoder.embed.tokens.weight.dtype)
            sides["fast"] = lambda: decode_memory(self.fast.model, heard, None, how)
        name = "greedy, a token" if beams == 1 else f"beam {beams}, a token"
        return self.against(name, "ms", reach, sides, 1e-3 * TOKENS)

    def greedy(self) -> list[Row]:
        return self.token(1, (1.5, 4.0))

    def beam(self) -> list[Row]:
        return self.token(5, (2.0, 5.0))

    def batch(self) -> list[Row]:
        """transformers pads all 16 to the longest, ours sorts them by length into batches of 4. Padding
        changes transformers' numbers, so what we write is compared with what it writes of one alone."""
        how = {"num_beams": 1, "max_new_tokens": 20, "min_new_tokens": 20}
        values, mask = self.stt.prepare(self.utterances)  # 2 x (B, L)

        order = sorted(range(UTTERANCES), key=lambda i: len(self.utterances[i]))

        def ours(stt):
            found = {}
            for i in range(0, UTTERANCES, 4):
                waveforms = [self.utterances[number] for number in order[i : i + 4]]
                found |= zip(
                    order[i : i + 4], stt.model.generate(*stt.prepare(waveforms), **how).tolist()
                )
            return found

        found = ours(self.stt)
        for i in range(3):
            alone = self.theirs.generate(values[i : i + 1, : mask[i].sum()], **how)[0].tolist()
            assert found[i] == alone and len(alone) == 21, f"utterance {i}: other tokens"
        sides = {
            "transformers": lambda: self.theirs.generate(values, attention_mask=mask, **how),
            "nanos2t": lambda: ours(self.stt),
        }
        if self.fast:
            sides["fast"] = lambda: ours(self.fast)
        return self.against(f"{UTTERANCES} utterances of 3 to 15 s", "s", (1.5, 1.5), sides)

    def processes(self, beams: int, tokens: int) -> dict[str, tuple[list[float], list[float]]]:
        """Fresh processes that import, load and write some tokens: seconds, and megabytes at the most."""
        found = {}
        for side, load in LOAD.items():
            if side == "fast" and not self.fast:
                continue
            where = {"folder": str(self.folder), "device": self.options.device}
            load = load.format(dtype=self.options.fast, **where)
            code = USE.format(load=load, threads=torch.get_num_threads(), samples=SECONDS * RATE,
                              beams=beams, tokens=tokens)  # fmt: skip
            seconds, peaks = found.setdefault(side, ([], []))
            for _ in range(self.options.repeat):
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", code], stdout=subprocess.PIPE, check=True
                )
                seconds.append(time.perf_counter() - started)
                peaks.append(float(done.stdout))
        return found

    def rows_of(self, name: str, unit: str, reach: tuple, found: dict, which: int) -> list[Row]:
        return [
            Row(f"{name}, {label}", unit, goal, found["transformers"][which], found[side][which])
            for side, label, goal in zip(("nanos2t", "fast"), ("float32", self.options.fast), reach)
            if side in found
        ]

    def cold(self) -> list[Row]:
        return self.rows_of("import, load, 5 tokens", "s", (2.5, 2.5), self.processes(1, 5), 0)

    def memory(self) -> list[Row]:
        return self.rows_of("peak memory, beam 5", "MB", (1.25, 2.0), self.processes(5, TOKENS), 1)


ROWS = ("encode", "greedy", "beam", "batch", "cold", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=ROWS, nargs="+", default=ROWS, help="default: all")
    parser.add_argument("--repeat", type=int, metavar="N", help="turns; default: 7, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="few turns")
    parser.add_argument("--json", action="store_true", help="a JSON object for each row")
    parser.add_argument(
        "--fast", help='of the fast mode, "" for none; default: int8, on a GPU bfloat16'
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, help="keep the model there; default: a temporary folder"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s"
    )
    options = parser.parse_args()
    options.repeat = options.repeat or (2 if options.quick else 7)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device here")
        return
    if options.fast is None:
        options.fast = "int8" if options.device == "cpu" else "bfloat16"
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary, torch.inference_mode():
        folder = options.folder or Path(temporary)
        if not (folder / "config.json").exists():
            build(folder)
        bench = Bench(folder, options)
        for name in options.row:
            for row in getattr(bench, name)():
                found = row.report()
                line = (
                    "{row:40} {transformers:9.2f} {nanos2t:9.2f} {unit:3} {ratio:6.2f}"
                    "  ({lowest:.2f} to {highest:.2f}; reach {reach})"
                )
                print(json.dumps(found) if options.json else line.format(**found), flush=True)


if __name__ == "__main__":
    main()
