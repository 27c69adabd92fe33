# pytest tests/test_train_data.py
"""What of a manifest is trained on, in which batches, and how clips are changed."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from helpers.training import RATE, SMALL, TINY, config_folder, config_of, corpus

from nanos2t import audio
from nanos2t.decoder import DecoderConfig
from nanos2t.model import IGNORED, SpeechEncoderDecoder
from nanos2t.training import data as train_data
from nanos2t.training import losses as train_loss
from nanos2t.training import manifest
from nanos2t.training import start as train_start
from nanos2t.training.config import TrainConfig
from nanos2t.training.data import Example


@pytest.fixture
def setup(tmp_path: Path):
    """A transcriber, the items of a manifest in two languages, and a config."""
    path = corpus(tmp_path / "data", languages=("en", "de"))
    config = config_of(config_folder(tmp_path / "model"), path, batch_seconds=0.9, max_seconds=5.0)
    items = manifest.read_manifest(path)
    (tmp_path / "start").mkdir()
    return train_start.prepare_transcriber(config, items, tmp_path / "start"), items, config


def test_examples_have_the_language_then_the_text_then_the_end(setup):
    stt, items, config = setup
    found, lines = train_data.select_examples(stt, items, config)
    assert not lines and len(found) == len(items)
    for item, example in zip(items, found):
        assert (
            example.tokens[0] == stt.model.generation.lang_to_id[item.language]
            and example.given == 1
        )
        assert example.tokens[-1] == stt.model.generation.eos_token_id
        assert stt.tokenizer.decode(example.tokens) == item.text
        assert example.seconds == pytest.approx(len(manifest.load_item(item, RATE)) / RATE)
        assert example.learned == len(example.tokens) - 1


@pytest.mark.parametrize(
    ("encoded", "generation", "expected"),
    [
        (
            [101, 7, 8, 102],
            {"decoder_start_token_id": 101, "eos_token_id": 102},
            ([7, 8, 102], 0),
        ),  # BERT
        ([7, 8], {"decoder_start_token_id": 50, "eos_token_id": 50}, ([7, 8, 50], 0)),  # GPT-2
        (
            [0, 7, 2],
            {"decoder_start_token_id": 2, "eos_token_id": 2, "forced_bos_token_id": 0},
            ([0, 7, 2], 1),
        ),
        (
            [90, 7, 2],
            {
                "decoder_start_token_id": 2,
                "eos_token_id": 2,
                "forced_bos_token_id": 91,
                "lang_to_id": {"en": 90, "de": 91},
            },
            ([91, 7, 2], 1),
        ),  # mBART  # fmt: skip
        ([7], {"decoder_start_token_id": 1, "eos_token_id": [5, 6]}, ([7, 5], 0)),
        ([7], {"decoder_start_token_id": 1}, ([7], 0)),
    ],
)
def test_labels_by_each_family_s_tokenizer(encoded, generation, expected):
    """transformers' labels, without a start token that the decoder has already."""
    from nanos2t.generation_config import GenerationConfig

    config = GenerationConfig(**generation)
    stt = SimpleNamespace(
        languages=tuple(config.lang_to_id or ()),
        resolve_generation=lambda language, options: (options, config, language),
    )
    stt.tokenizer = SimpleNamespace(encode=lambda text: encoded)
    assert train_data.encode_text(stt, manifest.Item("a.wav", "text")) == expected


def test_what_can_not_be_trained_on_is_skipped_and_listed(setup, tmp_path: Path):
    stt, items, config = setup
    good, data = items[0], tmp_path / "data"
    for name, samples, rate in (
        ("short", 8, RATE),
        ("tight", 60, RATE),
        ("long", 5001, RATE),
        ("fast", 400, 2000),
    ):
        soundfile.write(
            data / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, samples), rate
        )
    (data / "text.wav").write_text("no sound")
    bad = {
        replace(good, audio=str(data / "none.wav")): "No such file",
        replace(good, audio=str(data / "text.wav")): "not audio",
        replace(good, end=99.0): "its end is behind that of the recording",
        replace(good, start=99.0): "expected one frame",
        replace(
            good, audio=str(data / "short.wav")
        ): "0.008 s, expected one frame (11 samples) to 5.0 s",
        replace(good, audio=str(data / "long.wav")): "5.001 s, expected one frame",
        replace(good, text=" "): "empty text",
        replace(good, text="one zwölf"): "text outside the vocabulary",
        replace(good, text="one " * 40): "40 tokens or so",
        replace(good, audio=str(data / "tight.wav"), text=f"{good.text} " * 4): "frames",
        replace(good, language="xx"): "unknown language 'xx'",
    }
    odd = replace(good, audio=str(data / "fast.wav"), text="one")
    found, lines = train_data.select_examples(stt, [good, *bad, odd], config)
    assert [example.item for example in found] == [good, odd]
    assert len(lines) == len(bad) + 1
    for number, (line, (item, reason)) in enumerate(zip(lines, bad.items()), 2):
        assert line.startswith(f"skipped: item {number}, {item}: ")
        assert reason.replace("40 tokens or so", "37 positions at most") in line
    assert lines[-1] == "resampled: 1 recordings, from 2000 to 1000 Hz"


def test_empty_texts_may_be_kept_but_not_without_a_label(setup):
    stt, items, config = setup
    silent = replace(items[0], text="")
    found, _ = train_data.select_examples(stt, [silent], replace(config, keep_empty=True))
    assert found[0].tokens[1:] == [stt.model.generation.eos_token_id]
    stt.model.generation = replace(stt.model.generation, eos_token_id=None)
    stt.tokenizer.backend.post_processor = __import__("tokenizers").processors.TemplateProcessing(
        "$A"
    )
    found, lines = train_data.select_examples(stt, [silent], replace(config, keep_empty=True))
    assert not found and "1 tokens, expected 2 or more" in lines[0]


def test_count_frames_is_what_the_encoder_makes():
    encoder = SpeechEncoderDecoder.from_configs(TINY, DecoderConfig.bert(9, **SMALL)).encoder.eval()
    samples = torch.tensor([200, 17, encoder.config.min_samples])
    _, frames = encoder(torch.randn(3, 200), samples)
    assert train_data.count_frames(encoder, samples, adapted=True).tolist() == frames.tolist()
    assert train_data.count_frames(encoder, samples).tolist() == [32, 2, 1]
    assert [
        train_data.count_frames(encoder, n, adapted=True) for n in samples.tolist()
    ] == frames.tolist()


def examples_of(*seconds: float) -> list[Example]:
    return [
        Example(manifest.Item(str(i), ""), x, [1] * (i % 3 + 2), i % 2)
        for i, x in enumerate(seconds)
    ]


def test_batches_hold_similar_lengths_within_the_limit():
    seconds = np.random.default_rng(0).uniform(1, 20, 300)
    batches = train_data.split_batches(seconds, 60.0)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    assert all(len(batch) == 1 or seconds[batch].max() * len(batch) <= 60 for batch in batches)
    assert sum(seconds[batch].max() * len(batch) for batch in batches) < 1.05 * seconds.sum()
    assert train_data.split_batches(np.array([70.0, 80.0]), 60.0) == [[0], [1]]


def test_each_clip_comes_once_in_an_epoch_in_another_order():
    found = examples_of(*np.random.default_rng(0).uniform(1, 9, 50))
    config = TrainConfig(batch_seconds=20.0)
    stream = train_data.stream_batches(found, config)
    epochs = []
    for _ in range(3):
        epoch = []
        while sum(map(len, epoch)) < 50:
            epoch.append(tuple(next(stream)))
        assert Counter(i for batch in epoch for i in batch) == Counter(range(50))
        epochs.append(epoch)
    assert epochs[0] != epochs[1] and {*epochs[0]} != {*epochs[1]}
    again = train_data.stream_batches(found, config)
    assert [tuple(next(again)) for _ in epochs[0]] == epochs[0]
    other = train_data.stream_batches(found, replace(config, seed=2))
    assert [tuple(next(other)) for _ in epochs[0]] != epochs[0]


@pytest.mark.parametrize("first", [0, 3])
def test_the_processes_share_the_batches_of_a_step(first):
    found = examples_of(*np.random.default_rng(0).uniform(1, 9, 50))
    config = TrainConfig(batch_seconds=20.0, accumulate=6)

    def take(rank: int, size: int, count: int) -> list:
        keys = train_data.plan_batches(found, config, first, rank, size)
        return [next(keys) for _ in range(count)]

    whole = take(0, 1, 18)
    assert [number for number, _, _ in whole] == list(range(first * 6, first * 6 + 18))
    for window in (whole[:6], whole[6:12], whole[12:]):
        labels = sum(found[i].learned for _, batch, _ in window for i in batch)
        assert {total for _, _, total in window} == {labels}
    for size in (2, 3):
        shares = [take(rank, size, 18 // size) for rank in range(size)]
        assert sorted(key for share in shares for key in share) == whole


def test_the_texts_of_a_clip_share_its_place():
    items = [
        manifest.Item(f"{i % 20}.wav", "", start=float(i % 2)) for i in range(80)
    ]  # 20 clips, 4 texts each
    found = [Example(item, 1.0 + i % 20 / 10, [1, 2], 0) for i, item in enumerate(items)]
    for targets, repeated in ((1, 0), (2, 0), (4, 0), (3, 2), (6, 2)):
        config = TrainConfig(batch_seconds=9.0, targets=targets)
        stream, seen = train_data.stream_batches(found, config), Counter()
        while len(seen) < 80:
            batch = next(stream)
            groups = [batch[i : i + targets] for i in range(0, len(batch), targets)]
            assert all(len({i % 20 for i in group}) == 1 for group in groups)
            assert all(len({*group}) == min(targets, 4) or len({*group}) == 1 for group in groups)
            seen.update(batch)
        assert sum(seen.values()) == 80 + 20 * repeated
    assert train_data.group_by_clip(found)[3] == [3, 23, 43, 63]


def test_a_curriculum_begins_with_short_clips():
    found = examples_of(*np.random.default_rng(0).permutation(np.linspace(1, 5, 400)))
    stream = train_data.stream_batches(
        found, TrainConfig(batch_seconds=20.0, curriculum=100, accumulate=2)
    )
    longest = [max(found[i].seconds for i in next(stream)) for _ in range(400)]
    assert max(longest[:8]) < 2.1 and 2.5 < max(longest[:100]) < 3.5 and max(longest[200:]) == 5.0
    whole = train_data.stream_batches(found, TrainConfig(batch_seconds=20.0))
    assert max(found[i].seconds for _ in range(8) for i in next(whole)) > 3


def test_a_clip_is_encoded_once_for_its_texts_and_says_the_first(setup):
    stt, items, config = setup
    texts = ("one three", "en"), ("one", "de"), ("three", "en")
    items = [replace(items[i], text=text, language=name) for i in (2, 5) for text, name in texts]
    found, lines = train_data.select_examples(stt, items, config)
    assert not lines
    batch = train_data.Clips(stt, found, replace(config, targets=2))[0, [5, 4, 1, 2], 9]
    assert batch.names == [items[5].audio, items[1].audio] and len(batch.input_values) == 2
    assert len(batch.labels) == len(batch.decoder_input_ids) == 4
    tokens = [found[i].tokens for i in (5, 4, 1, 2)]
    assert [row[row != IGNORED].tolist() for row in batch.labels] == [row[1:] for row in tokens]
    said = [row[row != IGNORED].tolist() for row in batch.said]
    assert said == [found[0].tokens[1:-1]] * 2 and stt.tokenizer.decode(said[0]) == "one three"


def test_a_batch_is_what_the_model_takes(setup):
    stt, items, config = setup
    found, _ = train_data.select_examples(stt, items, config)
    batch = train_data.Clips(stt, found, config)[5, [0, 3], 17]
    assert (
        batch.number == 5 and batch.total == 17 and batch.names == [items[0].audio, items[3].audio]
    )
    waveforms = [audio.normalise(manifest.load_item(items[i], RATE)) for i in (0, 3)]
    values, mask = stt.prepare(waveforms)
    assert torch.equal(batch.input_values, audio.pad(waveforms)[0]) and torch.equal(
        batch.attention_mask, mask
    )
    assert values.shape == batch.input_values.shape
    for row, i in enumerate((0, 3)):
        tokens = found[i].tokens
        read, labels = batch.decoder_input_ids[row].tolist(), batch.labels[row].tolist()
        assert read[: len(tokens)] == [stt.model.generation.decoder_start_token_id, *tokens[:-1]]
        assert labels[: len(tokens)] == [IGNORED, *tokens[1:]] and {*labels[len(tokens) :]} <= {
            IGNORED
        }


def test_workers_and_restarts_change_no_batch(setup):
    stt, items, config = setup
    config = replace(config, speed=0.2, noise=0.5)
    found, _ = train_data.select_examples(stt, items, config)
    here = train_data.train_loader(stt, found, config, 0, 0, 1)
    there = train_data.train_loader(stt, found, replace(config, workers=2), 3, 0, 1)
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
    soundfile.write(bad := str(Path(good.audio).with_name("bad.wav")), sound, RATE, subtype="FLOAT")
    texts = [
        replace(replace(good, audio=bad), text=text) for text in (good.text, f"{good.text} one")
    ]
    found, lines = train_data.select_examples(stt, [items[2], *texts], replace(config, targets=2))
    assert not lines
    clips = train_data.Clips(stt, found, replace(config, targets=2))
    batch = clips[0, [1, 2, 0, 0], 9]
    assert batch.lost == {texts[0]: f"{bad}: expected finite samples, found NaN or infinity"}
    assert batch.total == 9
    assert (batch.labels[:2] == IGNORED).all() and (batch.said[0] == IGNORED).all()
    learner = train_loss.TrainingModule(stt.model.eval(), replace(config, ctc=0.5, targets=2))
    alone = clips[0, [0, 0], 9]
    assert not alone.lost and torch.equal(alone.labels, batch.labels[2:, : alone.labels.shape[1]])
    learner.ctc.weight.data.zero_()
    learner.ctc.bias.data.zero_()
    learner.ctc.bias.data[0] = 99.0  # silence is said to be silence
    losses = [learner(*given[2:4], None, *given[4:7]).item() for given in (batch, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    listed = train_data.select_examples(stt, [items[2], *texts], config, decode=True)
    assert listed[0] == found[:1] and all(
        "bad.wav: expected finite samples" in line for line in listed[1]
    )


def test_a_recording_that_is_cut_short_is_skipped(setup):
    stt, items, config = setup
    path = Path(items[2].audio)
    path.write_bytes(path.read_bytes()[:-200])
    found, lines = train_data.select_examples(stt, items, config)
    assert (
        len(found) == 7
        and len(lines) == 1
        and "item 3" in lines[0]
        and "cut short, found 0." in lines[0]
    )
    part = replace(items[2], end=train_data.measure_recording(str(path))[1], text="one")
    assert not train_data.select_examples(stt, [part], config)[1]


@pytest.mark.parametrize("text", ["one <pad>", "</s>one", "<de> one", "one <s> two"])
def test_a_text_with_a_special_token_is_skipped(setup, text: str):
    stt, items, config = setup
    found, lines = train_data.select_examples(stt, [replace(items[0], text=text)], config)
    assert not found and "text with a special token, <" in lines[0]


def test_dev_batches_have_each_clip_once_unchanged_one_language_each(setup):
    stt, items, config = setup
    found, _ = train_data.select_examples(stt, items, config)
    loaders = [
        train_data.dev_loader(stt, found, replace(config, speed=0.5, noise=1.0), r, 2)
        for r in range(2)
    ]
    batches = [batch for loader in loaders for batch in loader]
    assert sorted(name for batch in batches for name in batch.names) == sorted(
        item.audio for item in items
    )
    for batch in batches:
        assert len({*batch.decoder_input_ids[:, 1].tolist()}) == 1
        assert batch.total == (batch.labels != IGNORED).sum()
    lengths = sorted(int(n) for batch in batches for n in batch.attention_mask.sum(1))
    assert lengths == sorted(len(manifest.load_item(item, RATE)) for item in items)


def test_augment_does_what_it_says():
    tone = np.sin(2 * np.pi * 0.05 * np.arange(4096)).astype(np.float32)
    assert train_data.augment(tone, TrainConfig(), np.random.default_rng(0)) is tone
    factors, levels = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        fast = train_data.augment(tone, TrainConfig(speed=0.2), rng)
        factors.append(len(tone) / len(fast))
        peak = np.abs(np.fft.rfft(fast * np.hanning(len(fast)))).argmax() / len(fast)
        assert peak == pytest.approx(0.05 * factors[-1], abs=3e-4) and fast.dtype == np.float32
        noise = train_data.augment(tone, TrainConfig(noise=0.5), rng) - tone
        if noise.any():
            levels.append(20 * np.log10(tone.std() / noise.std()))
    assert 0.8 < min(factors) < 0.85 and 1.18 < max(factors) < 1.23
    assert 70 < len(levels) < 130 and 2.9 < min(levels) < 6 and 32 < max(levels) < 35.1
