"""Which examples go through the model together, and in which order.

    examples -> group_by_clip -> draw_groups: the texts of a clip that share one encoding
        -> bucket_by_length: batches -> stream_batches: epochs -> plan_batches: this process's part

Only indices and lengths are needed here: dataset.py makes the tensors.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np

from nanos2t.training.config import TrainConfig
from nanos2t.training.examples import Example, count_labels, group_by_clip
from nanos2t.training.randomness import epoch_generator


class BatchKey(NamedTuple):
    """A batch to make: its number, the indices of its examples, and the labels of its step."""

    number: int
    indices: list[int]
    step_labels: int


def bucket_by_length(seconds: np.ndarray, max_seconds: float) -> list[list[int]]:
    """Return the indices of clips in batches of similar length.

    A batch has at most `max_seconds` of audio with its padding, or a single clip.
    """
    batches: list[list[int]] = []
    for i in np.argsort(seconds, kind="stable").tolist():
        # Clips come in rising length: this one decides how long the padded batch would be.
        if not batches or seconds[i] * (len(batches[-1]) + 1) > max_seconds:
            batches.append([])
        batches[-1].append(i)
    return batches


def draw_groups(
    clips: list[list[int]], num_targets: int, rng: np.random.Generator
) -> list[list[int]]:
    """Return each clip's examples in random groups of `num_targets`.

    A group that is too small repeats its own examples.
    """
    groups = []
    for clip in clips:
        shuffled = rng.permutation(clip) if len(clip) > 1 else clip
        for start in range(0, len(clip), num_targets):
            group = shuffled[start : start + num_targets]
            groups.append(np.resize(group, num_targets).tolist())
    return groups


def stream_batches(examples: Sequence[Example], config: TrainConfig) -> Iterator[list[int]]:
    """Yield the indices of batches without end.

    Each epoch has every example once, in another order and with other neighbours. Examples of one
    clip follow each other, `config.targets` at a time. While the curriculum lasts, an epoch
    consists only of the batches with the shortest clips: at first a tenth of all, later the share
    of the curriculum that is over.
    """
    clips = group_by_clip(examples)
    curriculum_batches = config.curriculum * config.accumulate
    num_done = 0
    for epoch in count():
        rng = epoch_generator(config.seed, epoch)
        groups = draw_groups(clips, config.targets, rng)

        # Lengths are changed by up to 5 % before they are sorted, which gives clips other
        # neighbours.
        seconds = np.array([examples[group[0]].seconds for group in groups])
        seconds = seconds * rng.uniform(0.95, 1.05, len(seconds))
        batches = bucket_by_length(seconds, config.batch_seconds)

        if num_done < curriculum_batches:
            share = max(0.1, num_done / curriculum_batches)
            batches = batches[: math.ceil(len(batches) * share)]
        num_done += len(batches)

        for i in rng.permutation(len(batches)):
            yield [index for group in batches[i] for index in groups[group]]


def plan_batches(
    examples: Sequence[Example], config: TrainConfig, first_step: int, rank: int, world_size: int
) -> Iterator[BatchKey]:
    """Yield the batches of one process from the step `first_step` on, without end."""
    batches = enumerate(stream_batches(examples, config))
    batches = islice(batches, first_step * config.accumulate, None)
    while step_batches := list(islice(batches, config.accumulate)):
        # The loss of a step is divided by the labels that all processes learn in it.
        step_labels = 0
        for _, indices in step_batches:
            step_labels += count_labels(examples[i] for i in indices)

        for number, indices in step_batches[rank::world_size]:
            yield BatchKey(number, indices, step_labels)


def plan_validation(examples: Sequence[Example], config: TrainConfig) -> list[BatchKey]:
    """Return batches that have each example once.

    The examples of a batch have the same forced tokens, so that one call can decode them.
    """
    same_forced_tokens: dict[tuple, list[int]] = {}
    for i, example in enumerate(examples):
        forced_tokens = tuple(example.tokens[: example.num_forced])
        same_forced_tokens.setdefault(forced_tokens, []).append(i)

    keys: list[BatchKey] = []
    for _, indices in sorted(same_forced_tokens.items()):
        seconds = np.array([examples[i].seconds for i in indices])
        for batch in bucket_by_length(seconds, config.batch_seconds):
            batch_indices = [indices[i] for i in batch]
            num_labels = count_labels(examples[i] for i in batch_indices)
            keys.append(BatchKey(len(keys), batch_indices, num_labels))
    return keys
