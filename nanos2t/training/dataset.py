"""From examples to the tensors of a batch: decoded, changed, normalised, padded.

B clips of a batch, L samples, K texts of a clip (`config.targets`), T tokens of a text, N of a CTC
text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from nanos2t import audio
from nanos2t.model import IGNORED, shift_right
from nanos2t.training.augmentation import augment
from nanos2t.training.batches import BatchKey, plan_batches, plan_validation
from nanos2t.training.config import TrainConfig
from nanos2t.training.examples import Example, group_by_clip
from nanos2t.training.manifest import Item, load_item
from nanos2t.training.randomness import augmentation_generator
from nanos2t.transcription.transcriber import SpeechToText


class Batch(NamedTuple):
    """What the model is trained on at a time.

    A recording that cannot be decoded is listed in `damaged` with the reason: the batch has
    silence in its place, and nothing to learn from it.
    """

    number: int  # in the run
    names: list[str]  # of the B clips
    input_values: Tensor  # (B, L)
    attention_mask: Tensor  # (B, L)
    decoder_input_ids: Tensor  # (B * K, T)
    labels: Tensor  # (B * K, T), IGNORED where nothing is learned
    ctc_labels: Tensor  # (B, N), the first text of each clip, IGNORED on the right
    step_labels: int  # labels that all processes learn in the step
    damaged: dict[Item, str]


class BatchDataset(Dataset):
    """Batches by their BatchKey."""

    def __init__(self, stt: SpeechToText, examples: Sequence[Example], config: TrainConfig):
        self.examples = examples
        self.config = config
        self.sample_rate = stt.sample_rate
        self.normalise = stt.normalise
        self.min_samples = stt.model.encoder.config.min_samples
        self.generation = stt.model.generation

        # The first example of each example's clip: it has the text for CTC.
        self.first_example: dict[int, int] = {}
        for clip in group_by_clip(examples):
            self.first_example |= dict.fromkeys(clip, clip[0])

    def __getitem__(self, key: BatchKey) -> Batch:
        number, indices, step_labels = key
        rng = augmentation_generator(self.config.seed, number)

        # The K texts of a clip follow each other, so every K-th example has the next clip.
        clips = indices[:: self.config.targets]
        waveforms, damaged = self.load_waveforms(clips, rng)
        input_values, attention_mask = audio.pad(waveforms, self.min_samples)  # (B, L)
        decoder_input_ids, labels = self.make_labels(indices, damaged)  # (B * K, T)

        return Batch(
            number=number,
            names=[str(self.examples[i].item) for i in clips],
            input_values=input_values,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            labels=labels,
            ctc_labels=self.make_ctc_labels(clips, damaged),
            step_labels=step_labels,
            damaged={self.examples[i].item: reason for i, reason in damaged.items()},
        )

    def load_waveforms(
        self, clips: list[int], rng: np.random.Generator
    ) -> tuple[list[np.ndarray], dict[int, str]]:
        """Return the waveform (L,) of each clip, and the reason for each that cannot be decoded.

        Reasons are found by the index of the clip's first example.
        """
        waveforms = []
        damaged = {}
        for i in clips:
            try:
                waveform = load_item(self.examples[i].item, self.sample_rate)
                waveform = augment(waveform, self.config, rng)
                if self.normalise:
                    waveform = audio.normalise(waveform)
            except ValueError as error:
                waveform = np.zeros(self.min_samples, np.float32)
                damaged[self.first_example[i]] = str(error)
            waveforms.append(waveform)
        return waveforms, damaged

    def make_labels(self, indices: list[int], damaged: dict[int, str]) -> tuple[Tensor, Tensor]:
        """Return decoder input ids and labels, both (B * K, T)."""
        examples = [self.examples[i] for i in indices]
        labels = pad_labels([example.tokens for example in examples])
        decoder_input_ids = shift_right(
            labels,
            self.generation.require_id("decoder_start_token_id"),
            self.generation.require_id("pad_token_id"),
        )

        # The decoder reads the forced tokens, but does not learn to write them.
        for row, i, example in zip(labels, indices, examples):
            row[: example.num_forced] = IGNORED
            if self.first_example[i] in damaged:
                row[:] = IGNORED
        return decoder_input_ids, labels

    def make_ctc_labels(self, clips: list[int], damaged: dict[int, str]) -> Tensor:
        """Return the first text of each clip, without forced and end tokens, (B, N)."""
        end_tokens = self.generation.eos_ids
        rows = []
        for i in clips:
            example = self.examples[self.first_example[i]]
            tokens = example.tokens[example.num_forced :]
            rows.append([token for token in tokens if token not in end_tokens])
        ctc_labels = pad_labels(rows)  # (B, N)
        for row, i in zip(ctc_labels, clips):
            if self.first_example[i] in damaged:
                row[:] = IGNORED
        return ctc_labels


def pad_labels(rows: list[list[int]]) -> Tensor:
    """Return lists of ids as one tensor (B, T), padded on the right with IGNORED."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=IGNORED)


def train_loader(
    stt: SpeechToText,
    examples: Sequence[Example],
    config: TrainConfig,
    first_step: int,
    rank: int,
    world_size: int,
) -> Iterator[Batch]:
    """Yield the batches of one process from `first_step` on, without end.

    `config.workers` processes decode them ahead.
    """
    keys = plan_batches(examples, config, first_step, rank, world_size)
    dataset = BatchDataset(stt, examples, config)
    return iter(DataLoader(dataset, batch_size=None, sampler=keys, num_workers=config.workers))


def dev_loader(
    stt: SpeechToText, examples: Sequence[Example], config: TrainConfig, rank: int, world_size: int
) -> DataLoader:
    """Load one process's part of all examples, unchanged."""
    config = replace(config, speed=0.0, noise=0.0, targets=1)
    keys = plan_validation(examples, config)[rank::world_size]
    dataset = BatchDataset(stt, examples, config)
    return DataLoader(dataset, batch_size=None, sampler=keys, num_workers=config.workers)
