# pytest tests/training/test_examples.py
"""Which items of a manifest can be trained on, and why the others cannot."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
from helpers.training import RATE, SMALL, TINY
from tokenizers import models

from nanos2t.decoder import DecoderConfig
from nanos2t.generation_config import GenerationConfig
from nanos2t.model import SpeechEncoderDecoder
from nanos2t.tokenizer import Tokenizer
from nanos2t.training.examples import count_frames, encode_text, measure_recording, select_examples
from nanos2t.training.manifest import Item, load_item


def test_examples_have_the_language_then_the_text_then_the_end(setup):
    stt, items, config = setup
    examples, lines = select_examples(stt, items, config)
    assert not lines and len(examples) == len(items)
    for item, example in zip(items, examples):
        assert (
            example.tokens[0] == stt.model.generation.lang_to_id[item.language]
            and example.num_forced == 1
        )
        assert example.tokens[-1] == stt.model.generation.eos_token_id
        assert stt.tokenizer.decode(example.tokens) == item.text
        assert example.seconds == pytest.approx(len(load_item(item, RATE)) / RATE)
        assert example.num_labels == len(example.tokens) - 1


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

    config = GenerationConfig(**generation)
    stt = SimpleNamespace(
        languages=tuple(config.lang_to_id or ()),
        resolve_generation=lambda language, options: (options, config, language),
    )
    stt.tokenizer = SimpleNamespace(encode=lambda text: encoded)
    assert encode_text(stt, Item("a.wav", "text")) == expected


def test_what_can_not_be_trained_on_is_skipped_and_listed(setup, tmp_path: Path):
    stt, items, config = setup
    good = items[0]
    data = tmp_path / "data"
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
        replace(good, end=99.0): "ends at 99.0 s, expected an end within the recording",
        replace(good, start=99.0): "expected one frame",
        replace(
            good, audio=str(data / "short.wav")
        ): "0.008 s, expected one frame (11 samples) to 5.0 s",
        replace(good, audio=str(data / "long.wav")): "5.001 s, expected one frame",
        replace(good, text=" "): "empty text",
        replace(good, text="one zwölf"): "text outside the vocabulary",
        replace(good, text="one " * 40): "the decoder 37 positions",
        replace(good, audio=str(data / "tight.wav"), text=f"{good.text} " * 4): "frames",
        replace(good, language="xx"): "unknown language 'xx'",
    }
    odd = replace(good, audio=str(data / "fast.wav"), text="one")
    examples, lines = select_examples(stt, [good, *bad, odd], config)
    assert [example.item for example in examples] == [good, odd]
    assert len(lines) == len(bad) + 1
    for number, (line, (item, reason)) in enumerate(zip(lines, bad.items()), 2):
        assert line.startswith(f"skipped: item {number}, {item}: ")
        assert reason in line
    assert lines[-1] == "resampled: 1 recordings, from 2000 to 1000 Hz"


def test_empty_texts_may_be_kept_but_not_without_a_label(setup):
    stt, items, config = setup
    silent = replace(items[0], text="")
    examples, _ = select_examples(stt, [silent], replace(config, keep_empty=True))
    assert examples[0].tokens[1:] == [stt.model.generation.eos_token_id]
    stt.model.generation = replace(stt.model.generation, eos_token_id=None)
    stt.tokenizer.backend.post_processor = __import__("tokenizers").processors.TemplateProcessing(
        "$A"
    )
    examples, lines = select_examples(stt, [silent], replace(config, keep_empty=True))
    assert not examples and "1 tokens, expected 2 to " in lines[0]


VOCABULARIES = {
    "no token for unknown letters": (models.BPE({"a": 0, "b": 1}, []), "no token for 'é'"),
    "no token for unknown words": (models.WordLevel({"a": 0}), "Missing \\[UNK\\] token"),
    "another name": (models.WordLevel({"a": 0, "?": 3}, "?"), "text outside the vocabulary"),
    "more tokens than the decoder": (models.BPE({"a": 0, "é": 99}, []), "token id 99, expected"),
}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_what_a_vocabulary_cannot_write_is_skipped(setup, kind: str):
    stt, items, config = setup
    model, reason = VOCABULARIES[kind]
    stt.tokenizer = Tokenizer(tokenizers.Tokenizer(model))
    texts = [replace(items[0], text=text) for text in ("aé", "a")]
    examples, lines = select_examples(stt, texts, config)
    assert [example.item.text for example in examples] == ["a"]
    assert len(lines) == 1 and re.search(f"item 1, .*{reason}", lines[0])


def test_count_frames_is_what_the_encoder_makes():
    encoder = SpeechEncoderDecoder.from_configs(TINY, DecoderConfig.bert(9, **SMALL)).encoder.eval()
    samples = torch.tensor([200, 17, encoder.config.min_samples])
    _, frames = encoder(torch.randn(3, 200), samples)
    assert count_frames(encoder, samples, with_adapter=True).tolist() == frames.tolist()
    assert count_frames(encoder, samples).tolist() == [32, 2, 1]
    assert [
        count_frames(encoder, n, with_adapter=True) for n in samples.tolist()
    ] == frames.tolist()


def test_a_recording_that_is_cut_short_is_skipped(setup):
    stt, items, config = setup
    path = Path(items[2].audio)
    path.write_bytes(path.read_bytes()[:-200])
    examples, lines = select_examples(stt, items, config)
    assert (
        len(examples) == 7
        and len(lines) == 1
        and "item 3" in lines[0]
        and "cut short, found 0." in lines[0]
    )
    part = replace(items[2], end=measure_recording(str(path))[1], text="one")
    assert not select_examples(stt, [part], config)[1]


@pytest.mark.parametrize("text", ["one <pad>", "</s>one", "<de> one", "one <s> two"])
def test_a_text_with_a_special_token_is_skipped(setup, text: str):
    stt, items, config = setup
    examples, lines = select_examples(stt, [replace(items[0], text=text)], config)
    assert not examples and "text with a special token, <" in lines[0]
