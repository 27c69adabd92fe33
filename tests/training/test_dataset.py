# pytest tests/training/test_dataset.py
"""The tensors of a batch, in whatever process it is made."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers.training import RATE

from nanos2t import audio
from nanos2t.model import IGNORED
from nanos2t.training.dataset import BatchDataset, dev_loader, train_loader
from nanos2t.training.examples import select_examples
from nanos2t.training.losses import TrainingModule
from nanos2t.training.manifest import load_item


def test_a_clip_is_encoded_once_for_its_texts_and_says_the_first(setup):
    stt, items, config = setup
    texts = ("one three", "en"), ("one", "de"), ("three", "en")
    items = [replace(items[i], text=text, language=name) for i in (2, 5) for text, name in texts]
    examples, lines = select_examples(stt, items, config)
    assert not lines
    batch = BatchDataset(stt, examples, replace(config, targets=2))[0, [5, 4, 1, 2], 9]
    assert batch.names == [items[5].audio, items[1].audio] and len(batch.input_values) == 2
    assert len(batch.labels) == len(batch.decoder_input_ids) == 4
    tokens = [examples[i].tokens for i in (5, 4, 1, 2)]
    assert [row[row != IGNORED].tolist() for row in batch.labels] == [row[1:] for row in tokens]
    results = [row[row != IGNORED].tolist() for row in batch.ctc_labels]
    assert (
        results == [examples[0].tokens[1:-1]] * 2
        and stt.tokenizer.decode(results[0]) == "one three"
    )


def test_a_batch_is_what_the_model_takes(setup):
    stt, items, config = setup
    examples, _ = select_examples(stt, items, config)
    batch = BatchDataset(stt, examples, config)[5, [0, 3], 17]
    assert batch.number == 5 and batch.step_labels == 17
    assert batch.names == [items[0].audio, items[3].audio]
    waveforms = [audio.normalise(load_item(items[i], RATE)) for i in (0, 3)]
    values, mask = stt.prepare(waveforms)
    assert torch.equal(batch.input_values, audio.pad(waveforms)[0])
    assert torch.equal(batch.attention_mask, mask)
    assert values.shape == batch.input_values.shape
    for row, i in enumerate((0, 3)):
        tokens = examples[i].tokens
        decoder_input = batch.decoder_input_ids[row].tolist()
        labels = batch.labels[row].tolist()
        assert decoder_input[: len(tokens)] == [
            stt.model.generation.decoder_start_token_id,
            *tokens[:-1],
        ]
        assert labels[: len(tokens)] == [IGNORED, *tokens[1:]] and {*labels[len(tokens) :]} <= {
            IGNORED
        }


def test_workers_and_restarts_change_no_batch(setup):
    stt, items, config = setup
    config = replace(config, speed=0.2, noise=0.5)
    examples, _ = select_examples(stt, items, config)
    here = train_loader(stt, examples, config, 0, 0, 1)
    there = train_loader(stt, examples, replace(config, workers=2), 3, 0, 1)
    batches = [next(here) for _ in range(8)]
    for wanted, batch in zip(batches[3:], there):
        assert wanted.number == batch.number and wanted.names == batch.names
        assert torch.equal(wanted.input_values, batch.input_values)
    assert any(wanted.input_values.shape != batches[0].input_values.shape for wanted in batches)


def test_nothing_is_learned_of_a_clip_that_turns_out_broken(setup):
    """Its header is good. The loss of the batch is that of the other clips."""
    stt, items, config = setup
    good = items[5]
    sound, _ = soundfile.read(good.audio)
    sound[len(sound) // 2] = np.nan
    bad = str(Path(good.audio).with_name("bad.wav"))
    soundfile.write(bad, sound, RATE, subtype="FLOAT")
    texts = [
        replace(replace(good, audio=bad), text=text) for text in (good.text, f"{good.text} one")
    ]
    examples, lines = select_examples(stt, [items[2], *texts], replace(config, targets=2))
    assert not lines
    clips = BatchDataset(stt, examples, replace(config, targets=2))
    batch = clips[0, [1, 2, 0, 0], 9]
    assert batch.damaged == {texts[0]: f"{bad}: expected finite samples up to 1e+15, found nan"}
    assert batch.step_labels == 9
    assert (batch.labels[:2] == IGNORED).all() and (batch.ctc_labels[0] == IGNORED).all()
    learner = TrainingModule(stt.model.eval(), replace(config, ctc=0.5, targets=2))
    alone = clips[0, [0, 0], 9]
    assert not alone.damaged and torch.equal(
        alone.labels, batch.labels[2:, : alone.labels.shape[1]]
    )
    learner.ctc.weight.data.zero_()
    learner.ctc.bias.data.zero_()
    learner.ctc.bias.data[0] = 99.0  # silence is said to be silence
    losses = [learner(*part[2:4], None, *part[4:7]).item() for part in (batch, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    listed = select_examples(stt, [items[2], *texts], config, decode=True)
    assert listed[0] == examples[:1] and all(
        "bad.wav: expected finite samples" in line for line in listed[1]
    )


def test_dev_batches_have_each_clip_once_unchanged_one_language_each(setup):
    stt, items, config = setup
    examples, _ = select_examples(stt, items, config)
    loaders = [
        dev_loader(stt, examples, replace(config, speed=0.5, noise=1.0), r, 2) for r in range(2)
    ]
    batches = [batch for loader in loaders for batch in loader]
    assert sorted(name for batch in batches for name in batch.names) == sorted(
        item.audio for item in items
    )
    for batch in batches:
        assert len({*batch.decoder_input_ids[:, 1].tolist()}) == 1
        assert batch.step_labels == (batch.labels != IGNORED).sum()
    lengths = sorted(int(n) for batch in batches for n in batch.attention_mask.sum(1))
    assert lengths == sorted(len(load_item(item, RATE)) for item in items)
