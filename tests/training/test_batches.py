# pytest tests/training/test_batches.py
"""Which clips go together, and in which order."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from nanos2t.training.batches import bucket_by_length, plan_batches, stream_batches
from nanos2t.training.config import TrainConfig
from nanos2t.training.examples import Example, group_by_clip
from nanos2t.training.manifest import Item


def examples_of(*seconds: float) -> list[Example]:
    return [Example(Item(str(i), ""), x, [1] * (i % 3 + 2), i % 2) for i, x in enumerate(seconds)]


def test_batches_hold_similar_lengths_within_the_limit():
    seconds = np.random.default_rng(0).uniform(1, 20, 300)
    batches = bucket_by_length(seconds, 60.0)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    assert all(len(batch) == 1 or seconds[batch].max() * len(batch) <= 60 for batch in batches)
    assert sum(seconds[batch].max() * len(batch) for batch in batches) < 1.05 * seconds.sum()
    assert bucket_by_length(np.array([70.0, 80.0]), 60.0) == [[0], [1]]


def test_each_clip_comes_once_in_an_epoch_in_another_order():
    examples = examples_of(*np.random.default_rng(0).uniform(1, 9, 50))
    config = TrainConfig(batch_seconds=20.0)
    stream = stream_batches(examples, config)
    epochs = []
    for _ in range(3):
        epoch = []
        while sum(map(len, epoch)) < 50:
            epoch.append(tuple(next(stream)))
        assert Counter(i for batch in epoch for i in batch) == Counter(range(50))
        epochs.append(epoch)
    assert epochs[0] != epochs[1] and {*epochs[0]} != {*epochs[1]}
    again = stream_batches(examples, config)
    assert [tuple(next(again)) for _ in epochs[0]] == epochs[0]
    other = stream_batches(examples, replace(config, seed=2))
    assert [tuple(next(other)) for _ in epochs[0]] != epochs[0]


@pytest.mark.parametrize("first", [0, 3])
def test_the_processes_share_the_batches_of_a_step(first):
    examples = examples_of(*np.random.default_rng(0).uniform(1, 9, 50))
    config = TrainConfig(batch_seconds=20.0, accumulate=6)

    def take(rank: int, size: int, count: int) -> list:
        keys = plan_batches(examples, config, first, rank, size)
        return [next(keys) for _ in range(count)]

    whole = take(0, 1, 18)
    assert [number for number, _, _ in whole] == list(range(first * 6, first * 6 + 18))
    for window in (whole[:6], whole[6:12], whole[12:]):
        labels = sum(examples[i].num_labels for _, batch, _ in window for i in batch)
        assert {total for _, _, total in window} == {labels}
    for size in (2, 3):
        shares = [take(rank, size, 18 // size) for rank in range(size)]
        assert sorted(key for share in shares for key in share) == whole


def test_the_texts_of_a_clip_share_its_place():
    # 20 clips, 4 texts each
    items = [Item(f"{i % 20}.wav", "", start=float(i % 2)) for i in range(80)]
    actual = [Example(item, 1.0 + i % 20 / 10, [1, 2], 0) for i, item in enumerate(items)]
    for targets, repeated in ((1, 0), (2, 0), (4, 0), (3, 2), (6, 2)):
        config = TrainConfig(batch_seconds=9.0, targets=targets)
        stream = stream_batches(actual, config)
        seen = Counter()
        while len(seen) < 80:
            batch = next(stream)
            groups = [batch[i : i + targets] for i in range(0, len(batch), targets)]
            assert all(len({i % 20 for i in group}) == 1 for group in groups)
            assert all(len({*group}) == min(targets, 4) or len({*group}) == 1 for group in groups)
            seen.update(batch)
        assert sum(seen.values()) == 80 + 20 * repeated
    assert group_by_clip(actual)[3] == [3, 23, 43, 63]


def test_a_curriculum_begins_with_short_clips():
    examples = examples_of(*np.random.default_rng(0).permutation(np.linspace(1, 5, 400)))
    stream = stream_batches(examples, TrainConfig(batch_seconds=20.0, curriculum=100, accumulate=2))
    longest = [max(examples[i].seconds for i in next(stream)) for _ in range(400)]
    assert max(longest[:8]) < 2.1 and 2.5 < max(longest[:100]) < 3.5 and max(longest[200:]) == 5.0
    whole = stream_batches(examples, TrainConfig(batch_seconds=20.0))
    assert max(examples[i].seconds for _ in range(8) for i in next(whole)) > 3
