"""The rows of the table: what is run, in turns, after it was compared."""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.speed.limits import (
    Machine,
    Work,
    count_encoding,
    count_frames,
    count_memory,
    count_token,
)
from tests.benchmarks.speed.pair import RATE
from tests.benchmarks.speed.sides import SIDES, load_side
from tests.benchmarks.speed.table import Line, make_line

UTTERANCES = 16  # of the batch
BATCH_TOKENS = 20
TRAINING_SECONDS = 5

# How far results may be from those of transformers in float32: the memory, relative to its size,
# and the log-probability of a token in the mean, by the core.
MEMORY_ERRORS = {"float32": 1e-3, "bfloat16": 0.3, "int8": 0.5}
LOGPROB_ERRORS = {"float32": 1e-3, "bfloat16": 0.5, "int8": 0.5}

Sides = dict[str, Callable[[], object]]


def time_turns(sides: Sides, count: int) -> dict[str, list[float]]:
    """Return the seconds of each side, each once in a turn; a turn before them warms up."""
    seconds = {name: [] for name in sides}
    for turn in range(count + 1):
        for name, side in sides.items():
            # Threads of the side before may still spin, in wait of more work.
            time.sleep(0.02)
            started = time.perf_counter()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


class Bench:
    """The sides with the same weights, and what is timed."""

    def __init__(
        self, folder: Path, options: argparse.Namespace, names: list[str], machine: Machine
    ):
        self.folder = folder
        self.options = options
        self.machine = machine
        self.sides = {
            name: load_side(name, folder, options.device, options.threads) for name in names
        }
        self.core = self.sides["core"].model
        self.wrong = set()  # names of sides that decoded something else
        self.tokens = options.tokens
        samples = int(options.seconds * RATE)

        noise = torch.Generator().manual_seed(0)
        self.waveform = torch.randn(1, samples, generator=noise)  # (1, L)
        shortest_longest = torch.tensor([3, 15]) * options.seconds / 11
        lengths = torch.linspace(*shortest_longest, UTTERANCES) * RATE
        lengths = lengths[torch.randperm(UTTERANCES, generator=noise)]
        self.utterances = [torch.randn(int(n), generator=noise).numpy() for n in lengths]
        with torch.inference_mode():
            self.memory = self.core.encode(self.waveform.to(options.device))[0]  # (1, S, H)

    def lines(
        self,
        row: tuple[str, str, str],
        values: dict[str, list[float]],
        stages: list[Work],
        scale: float,
        same: dict[str, str],
    ) -> Iterator[Line]:
        """Yield the line of each side; `scale` seconds are one unit of the row."""
        for name in values:
            limit = None
            if stages:
                limit = self.machine.least_seconds(stages, SIDES[name].dtype) / scale
            yield make_line(row, name, values, limit, same.get(name, ""))

    def take_turns(
        self,
        row: tuple[str, str, str],
        sides: Sides,
        stages: list[Work],
        scale: float = 1.0,
        same: dict[str, str] | None = None,
    ) -> Iterator[Line]:
        """Time the sides, and yield the lines of the row."""
        times = time_turns(sides, self.options.repeat)
        times = {name: [seconds / scale for seconds in times[name]] for name in times}
        return self.lines(row, times, stages, scale, same or {})

    def encode(self) -> Iterator[Line]:
        """Encode the waveform."""
        sides = {}
        same = {}
        for name, side in self.sides.items():
            sides[name] = partial(side.encode, self.waveform_of(name))
            memory = torch.as_tensor(sides[name]()).to(self.memory)
            error = ((memory - self.memory).norm() / self.memory.norm()).item()
            if error > MEMORY_ERRORS[SIDES[name].dtype]:
                print(f"skipped: {name} encodes something else: error {error:.2g}")
                del sides[name]
            same[name] = f"error {error:.1g}"
        samples = self.waveform.shape[1]
        stages = [count_encoding(self.core.encoder, samples)]
        row = ("encode", f"encode {self.options.seconds:g} s", "ms")
        return self.take_turns(row, sides, stages, 1e-3, same)

    def waveform_of(self, name: str) -> Tensor:
        """Return the waveform in the dtype and on the device of a side."""
        side = self.sides[name]
        if hasattr(side, "dtype"):
            return self.waveform.to(side.device, side.dtype)
        return self.waveform

    def memory_of(self, name: str):
        """Return the core's memory, as a side takes it: all decode the same."""
        side = self.sides[name]
        if hasattr(side, "dtype"):
            return self.memory.to(side.device, side.dtype)
        return self.memory.cpu().numpy()

    def decode(self, key: str, row_name: str, beams: int) -> Iterator[Line]:
        """Decode the waveform's memory."""
        expected = self.sides["transformers"].decode(
            self.memory_of("transformers"), beams, self.tokens
        )
        best = self.score(expected)
        sides = {}
        same = {}
        for name, side in self.sides.items():
            sides[name] = partial(side.decode, self.memory_of(name), beams, self.tokens)
            tokens = sides[name]()
            equal = sum(first == second for first, second in zip(tokens, expected))
            same[name] = f"{equal} of {len(expected)}"
            lost = best - self.score(tokens)
            if len(tokens) != len(expected) or lost > LOGPROB_ERRORS[SIDES[name].dtype]:
                print(f"skipped: {name} decodes something else: tokens {lost:.2g} less likely")
                del sides[name]
                self.wrong.add(name)
        frames = self.memory.shape[1]
        decoder = self.core.decoder
        token = count_token(decoder, frames, beams, self.tokens / 2)
        stages = [count_memory(decoder, frames), *[token] * self.tokens]
        return self.take_turns((key, row_name, "ms"), sides, stages, 1e-3 * self.tokens, same)

    def score(self, tokens: list[int]) -> float:
        """Return the log-probability of a token in the mean, by the core."""
        decoder = self.core.decoder
        rows = torch.tensor([tokens], device=self.memory.device)  # (1, T)
        logits = decoder(rows[:, :-1], decoder.project_memory(self.memory))  # (1, T - 1, V)
        logprobs = logits.log_softmax(dim=2).gather(2, rows[:, 1:, None])
        return logprobs.mean().item()

    def greedy(self) -> Iterator[Line]:
        return self.decode("greedy", "greedy, a token", 1)

    def beam(self) -> Iterator[Line]:
        return self.decode("beam", "beam 5, a token", 5)

    def batch(self) -> Iterator[Line]:
        """Transcribe 16 utterances: padded to the longest by transformers, in batches of 4 by ours.

        Ours are sorted by length. Padding changes transformers' numbers, so our tokens are compared
        with those that it generates for one utterance alone. Graphs take no batch.
        """
        device = self.options.device
        count = {"max_new_tokens": BATCH_TOKENS, "min_new_tokens": BATCH_TOKENS, "num_beams": 1}
        values, mask = self.sides["core"].stt.prepare(self.utterances)  # 2 x (B, L)
        order = sorted(range(UTTERANCES), key=lambda i: len(self.utterances[i]))

        def run_theirs(side) -> None:
            inputs = values.to(device, side.dtype)
            side.model.generate(inputs, attention_mask=mask.to(device), **count)

        def run_ours(side) -> dict[int, list[int]]:
            tokens = {}
            for start in range(0, UTTERANCES, 4):
                numbers = order[start : start + 4]
                inputs = side.stt.prepare([self.utterances[number] for number in numbers])
                tokens |= zip(numbers, side.model.generate(*inputs, **count).tolist())
            return tokens

        programs = {"transformers": run_theirs, "nanos2t": run_ours}
        sides = {
            name: partial(programs[SIDES[name].program], side)
            for name, side in self.sides.items()
            if SIDES[name].program in programs
        }

        # The first utterances, each against transformers' tokens for it alone.
        theirs = self.sides["transformers"].model
        for name in {"core", "fast"} & sides.keys():
            ours = sides[name]()
            for i in range(3):
                utterance = values[i : i + 1, : mask[i].sum()].to(device)  # (1, L)
                alone = theirs.generate(utterance, **count)[0].tolist()
                assert ours[i] == alone, f"{name}, utterance {i}: other tokens"
        row = ("batch", f"{UTTERANCES} utterances", "s")
        return self.take_turns(row, sides, self.batch_stages())

    def batch_stages(self) -> list[Work]:
        """Return the work of the batch, all utterances decoded together."""
        encoder = self.core.encoder
        decoder = self.core.decoder
        samples = [len(utterance) for utterance in self.utterances]
        frames = [count_frames(encoder, length)[-1] for length in samples]
        mean_frames = sum(frames) / UTTERANCES
        token = count_token(decoder, mean_frames, UTTERANCES, BATCH_TOKENS / 2, UTTERANCES)
        return [
            *[count_encoding(encoder, length) for length in samples],
            *[count_memory(decoder, count) for count in frames],
            *[token] * BATCH_TOKENS,
        ]

    def run_processes(self, beams: int, tokens: int) -> tuple[dict, dict]:
        """Run fresh processes that import, load and generate. Return seconds, and megabytes."""
        seconds = {name: [] for name in self.sides}
        megabytes = {name: [] for name in self.sides}
        options = self.options
        numbers = (options.threads, self.waveform.shape[1], beams, tokens)
        module = "tests.benchmarks.speed.fresh"
        for _ in range(options.repeat):
            for name in self.sides:
                command = [sys.executable, "-m", module, name, self.folder, options.device]
                command = [str(word) for word in (*command, *numbers)]
                started = time.perf_counter()
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
                seconds[name].append(time.perf_counter() - started)
                megabytes[name].append(float(done.stdout.split()[-1]))
        return seconds, megabytes

    def cold(self) -> Iterator[Line]:
        """Start a process that generates 5 tokens."""
        seconds, _ = self.run_processes(1, 5)
        return self.lines(("cold", "import, load, 5 tokens", "s"), seconds, [], 1.0, {})

    def peak(self) -> Iterator[Line]:
        """Generate with 5 beams in a process, and look at its peak memory; its limit: weights."""
        for name in self.wrong:
            del self.sides[name]
        self.wrong = set()
        _, megabytes = self.run_processes(5, self.tokens)
        weights = Work(0, sum(weight.numel() for weight in self.core.parameters()))
        for name in megabytes:
            limit = weights.bytes(SIDES[name].dtype) / 2**20
            yield make_line(("memory", "peak memory, beam 5", "MB"), name, megabytes, limit)

    @torch.inference_mode(False)
    @torch.enable_grad()
    def train(self) -> Iterator[Line]:
        """Take a step of training: two utterances, 12 labels, and AdamW as torch has it."""
        device = self.options.device
        samples = int(TRAINING_SECONDS * self.options.seconds / 11 * RATE)
        waveforms = torch.randn(2, samples, device=device)  # (B, L)
        labels = torch.arange(110, 134, device=device).view(2, 12)  # (B, T)
        sides = {}
        for name in "transformers", "core":
            model = load_side(name, self.folder, device, self.options.threads).model
            model.requires_grad_(True)
            optimizer = torch.optim.AdamW(model.parameters(), 1e-6, fused=True)

            def take_step(model=model, optimizer=optimizer) -> None:
                model(waveforms, labels=labels).loss.backward()
                optimizer.step()
                optimizer.zero_grad()

            sides[name] = take_step
        row = ("train", "a training step", "ms")
        return self.take_turns(row, sides, [], 1e-3)


# Names of rows, and the methods that time them.
ROWS = {
    "encode": Bench.encode,
    "greedy": Bench.greedy,
    "beam": Bench.beam,
    "batch": Bench.batch,
    "cold": Bench.cold,
    "memory": Bench.peak,
    "train": Bench.train,
}
