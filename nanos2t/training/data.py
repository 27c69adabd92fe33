"""From a manifest to batches: which lines can be trained on, which clips go together, how they are changed.

All is drawn from (seed, number of the batch): any process can make any batch, now or after a restart.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nanos2t import audio, audio_files
from nanos2t.model import IGNORED, shift_right
from nanos2t.training import manifest
from nanos2t.training.config import TrainConfig
from nanos2t.training.manifest import Item
from nanos2t.transcription.transcriber import SpeechToText
from nanos2t.wav2vec2 import Encoder, conv_output_lengths


@dataclass(frozen=True)
class Example:
    """A line of a manifest, its tokens, and how many of the first are given: the language is not learned."""

    item: Item
    seconds: float
    tokens: list[int]
    given: int

    @property
    def learned(self) -> int:
        return len(self.tokens) - self.given


class Batch(NamedTuple):
    """Clips (B, L) and their mask; decoder input and labels (B * K, T) of K targets each; what is said, the
    first text of each clip (B, N); labels to learn in the whole step; recordings that can not be decoded, and
    why: silence is in their place, and nothing in that of their labels.
    """

    number: int
    names: list[str]
    input_values: Tensor
    attention_mask: Tensor
    decoder_input_ids: Tensor
    labels: Tensor
    said: Tensor
    total: int
    lost: dict[Item, str]


def count_frames(encoder: Encoder, samples: Tensor | int, adapted: bool = False) -> Tensor | int:
    """How many frames the encoder makes of so many samples (B,), min_samples or more, before its adapter or
    behind it."""
    layers = [*encoder.feature_encoder.conv_layers]
    if adapted:
        layers += encoder.adapter.layers
    for layer in layers:
        samples = conv_output_lengths(samples, layer.conv)
    return samples


def encode_text(stt: SpeechToText, item: Item) -> tuple[list[int], int]:
    """The tokens of an item's text, and how many of the first are given. The start token is not among them,
    the token that generation forces (a language) comes first, the end token last. ValueError for a language
    that the model does not know; a model that knows none writes all of them alike.
    """
    _, config, _ = stt.resolve_generation(item.language if stt.languages else None, {})
    tokens, forced = stt.tokenizer.encode(item.text), config.forced_bos_token_id
    first = {config.decoder_start_token_id, forced, *(config.lang_to_id or {}).values()}
    tokens = tokens[1:] if tokens and tokens[0] in first else tokens
    end = [] if tokens and tokens[-1] in config.eos_ids else config.eos_ids[:1]
    return [forced] * (forced is not None) + tokens + end, int(forced is not None)


@lru_cache(maxsize=1)
def measure_recording(path: str) -> tuple[int, float, float]:
    """Rate, seconds of a recording and how many it announces, which are more if a WAV was cut short; the
    lines of a manifest that are about one follow each other."""
    with audio_files.open_audio(path) as file:
        announced = audio_files.announced_by_chunk(file, file.frames) if file.frames else 0
        return file.samplerate, file.frames / file.samplerate, announced / file.samplerate


@lru_cache(maxsize=1)
def decode_once(audio: str, start: float, end: float | None, rate: int) -> None:
    """ValueError if it can not be decoded."""
    manifest.load_item(Item(audio, "", None, start, end), rate)


def check_item(
    stt: SpeechToText, item: Item, config: TrainConfig, decode: bool
) -> tuple[Example, int]:
    """An item to train on, and the rate of its recording. ValueError: the reason why there is none."""
    rate, seconds, announced = measure_recording(item.audio)
    if item.end is None and seconds < announced:
        raise ValueError(f"cut short, found {seconds:.2f} of {announced:.2f} s")
    if item.end is not None and item.end > seconds:
        raise ValueError(f"its end is behind that of the recording, {seconds:.2f} s")
    seconds = (seconds if item.end is None else item.end) - item.start
    samples, needed = round(seconds * stt.sample_rate), stt.model.encoder.config.min_samples
    if not needed <= samples <= config.max_seconds * stt.sample_rate:
        raise ValueError(
            f"{seconds:.3f} s, expected one frame ({needed} samples) to {config.max_seconds} s"
        )
    if not (item.text.strip() or config.keep_empty):
        raise ValueError("empty text")
    added = stt.tokenizer.backend.get_added_tokens_decoder().values()
    if found := [token.content for token in added if token.special and token.content in item.text]:
        raise ValueError(f"text with a special token, {found[0]}")
    tokens, given = encode_text(stt, item)
    unknown = {stt.tokenizer.backend.token_to_id(name) for name in ("<unk>", "[UNK]")} - {None}
    if unknown & {*tokens}:
        raise ValueError("text outside the vocabulary")
    frames, most = count_frames(stt.model.encoder, samples, True), stt.model.decoder.config
    if not given < len(tokens) <= min(frames, most.max_positions):
        raise ValueError(
            f"{len(tokens)} tokens, expected {given + 1} or more, {frames} frames and "
            f"{most.max_positions} positions at most"
        )
    if decode:
        decode_once(item.audio, item.start, item.end, stt.sample_rate)
    return Example(item, seconds, tokens, given), rate


def select_examples(
    stt: SpeechToText, items: Sequence[Item], config: TrainConfig, decode: bool = False
) -> tuple[list[Example], list[str]]:
    """The items that can be trained on, and a line for each that is skipped, and for each odd rate. Of the
    recordings only headers are read, unless they are to be decoded."""
    found, lines, rates = [], [], {}
    for number, item in enumerate(items, 1):
        try:
            example, rate = check_item(stt, item, config, decode)
            found.append(example)
            rates[rate] = rates.get(rate, 0) + 1
        except ValueError as error:
            reason = str(error).removeprefix(f"{item.audio}: ")
            lines.append(f"skipped: item {number}, {item}: {reason}")
    lines += [
        f"resampled: {times} recordings, from {rate} to {stt.sample_rate} Hz"
        for rate, times in rates.items()
        if rate != stt.sample_rate
    ]
    return found, lines


def split_batches(seconds: np.ndarray, limit: float) -> list[list[int]]:
    """Indices in batches of similar length, of `limit` seconds at most with padding; one clip at least."""
    batches: list[list[int]] = []
    for i in np.argsort(seconds, kind="stable").tolist():
        if not batches or seconds[i] * (len(batches[-1]) + 1) > limit:
            batches.append([])
        batches[-1].append(i)
    return batches


def group_by_clip(examples: Sequence[Example]) -> list[list[int]]:
    """The indices of each clip's examples: one clip may be there with several texts."""
    clips: dict[tuple, list[int]] = {}
    for i, item in enumerate(example.item for example in examples):
        clips.setdefault((item.audio, item.start, item.end), []).append(i)
    return list(clips.values())


def group(clips: list[list[int]], targets: int, rng: np.random.Generator) -> list[list[int]]:
    """Each clip's examples in random groups of `targets`; one that is too small repeats its own."""
    shuffled = [rng.permutation(clip) if len(clip) > 1 else clip for clip in clips]
    parts = (clip[i : i + targets] for clip in shuffled for i in range(0, len(clip), targets))
    return [np.resize(part, targets).tolist() for part in parts]


def stream_batches(examples: Sequence[Example], config: TrainConfig) -> Iterator[list[int]]:
    """Batches without an end, each example once in an epoch, with other company and in another order. Those
    of a clip follow each other, `config.targets` at a time. While the curriculum lasts, an epoch has only the
    batches of the shortest clips: at first a tenth, later the share of it that is over.
    """
    clips, done, whole = group_by_clip(examples), 0, config.curriculum * config.accumulate
    for epoch in count():
        rng = np.random.default_rng((config.seed, epoch))
        groups = group(clips, config.targets, rng)
        seconds = np.array([examples[first].seconds for first, *_ in groups])
        batches = split_batches(
            seconds * rng.uniform(0.95, 1.05, len(seconds)), config.batch_seconds
        )
        batches = (
            batches[: math.ceil(len(batches) * max(0.1, done / whole))] if done < whole else batches
        )
        done += len(batches)
        yield from (
            [j for i in batches[k] for j in groups[i]] for k in rng.permutation(len(batches))
        )


def plan_batches(
    examples: Sequence[Example], config: TrainConfig, first: int, rank: int, size: int
) -> Iterator[tuple[int, list[int], int]]:
    """From the step `first` on this process's batches: number, indices, labels learned in the whole step."""
    numbered = islice(enumerate(stream_batches(examples, config)), first * config.accumulate, None)
    while window := list(islice(numbered, config.accumulate)):
        total = sum(examples[i].learned for _, batch in window for i in batch)
        yield from ((number, batch, total) for number, batch in window[rank::size])


def augment(waveform: np.ndarray, config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """A waveform (L,) at another speed and with noise of a spectrum 1 / f^a, a uniform in 0 .. 1, as the
    config says; its loudness does not change what a model hears that normalises.
    """
    if config.speed:
        import soxr

        factor = np.exp(rng.uniform(-config.speed, config.speed))
        waveform = soxr.resample(waveform, factor, 1.0).astype(np.float32)
    if rng.random() < config.noise:
        size = -(-len(waveform) // 2048) * 2048  # an FFT is quick on
        spectrum = np.fft.rfft(rng.standard_normal(size)) / np.arange(
            1, size // 2 + 2
        ) ** rng.uniform(0, 1)
        noise = np.fft.irfft(spectrum)[: len(waveform)]
        level = waveform.std() * 10 ** (-rng.uniform(3, 35) / 20)
        waveform = waveform + (noise / (noise.std() + 1e-9) * level).astype(np.float32)
    return waveform


class Clips(Dataset):
    """Batches by (number, indices, total), as in `plan`."""

    def __init__(self, stt: SpeechToText, examples: Sequence[Example], config: TrainConfig):
        self.examples, self.config = examples, config
        self.first = {i: clip[0] for clip in group_by_clip(examples) for i in clip}
        self.rate, self.normalise = stt.sample_rate, stt.normalise
        self.min_samples, self.generation = (
            stt.model.encoder.config.min_samples,
            stt.model.generation,
        )

    def waveform(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        waveform = augment(manifest.load_item(example.item, self.rate), self.config, rng)
        return audio.normalise(waveform) if self.normalise else waveform

    def __getitem__(self, key: tuple[int, list[int], int]) -> Batch:
        number, indices, total = key
        chosen, clips = [self.examples[i] for i in indices], indices[:: self.config.targets]
        rng = np.random.default_rng((self.config.seed, number, 1))
        waveforms, broken, lost = [], set(), {}
        for i in clips:
            try:
                waveforms.append(self.waveform(self.examples[i], rng))
            except ValueError as error:
                waveforms.append(np.zeros(self.min_samples, np.float32))
                broken.add(self.first[i])
                lost[self.examples[self.first[i]].item] = str(error)
        labels = pad_labels([example.tokens for example in chosen])
        tokens = shift_right(
            labels,
            self.generation.require_id("decoder_start_token_id"),
            self.generation.require_id("pad_token_id"),
        )
        for row, i, example in zip(labels, indices, chosen):
            row[: None if self.first[i] in broken else example.given] = IGNORED
        ends, texts = self.generation.eos_ids, (self.examples[self.first[i]] for i in clips)
        said = pad_labels(
            [[token for token in text.tokens[text.given :] if token not in ends] for text in texts]
        )
        said[[self.first[i] in broken for i in clips]] = IGNORED
        names = [str(self.examples[i].item) for i in clips]
        padded = audio.pad(waveforms, self.min_samples)
        return Batch(number, names, *padded, tokens, labels, said, total, lost)


def pad_labels(rows: list[list[int]]) -> Tensor:
    """Lists of ids -> (B, T), IGNORED on the right."""
    rows = [torch.tensor(row, dtype=torch.long) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=IGNORED)


def train_loader(
    stt: SpeechToText,
    examples: Sequence[Example],
    config: TrainConfig,
    first: int,
    rank: int,
    size: int,
) -> Iterator[Batch]:
    """This process's batches from the step `first` on, without an end, decoded ahead by `config.workers`."""
    order = plan_batches(examples, config, first, rank, size)
    return iter(
        DataLoader(Clips(stt, examples, config), None, sampler=order, num_workers=config.workers)
    )


def dev_loader(
    stt: SpeechToText, examples: Sequence[Example], config: TrainConfig, rank: int, size: int
) -> DataLoader:
    """This process's part of all examples, as they are; the clips of a batch have the same given tokens."""
    config, keys = replace(config, speed=0.0, noise=0.0, targets=1), []
    for given in sorted({tuple(example.tokens[: example.given]) for example in examples}):
        alike = [
            i
            for i, example in enumerate(examples)
            if tuple(example.tokens[: example.given]) == given
        ]
        parts = split_batches(np.array([examples[i].seconds for i in alike]), config.batch_seconds)
        keys += [[alike[i] for i in part] for part in parts]
    order = [
        (number, part, sum(examples[i].learned for i in part)) for number, part in enumerate(keys)
    ]
    clips = Clips(stt, examples, config)
    return DataLoader(clips, None, sampler=order[rank::size], num_workers=config.workers)
